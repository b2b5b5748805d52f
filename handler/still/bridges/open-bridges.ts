/** Opens the bridges that the environment names, in order. */
import * as v from 'valibot';
import { httpUrl, optionalInteger } from '../../../core/environment.ts';
import { SECOND } from '../../../core/time.ts';
import { BRIDGES, type Bridge, type BridgeName } from './bridge.ts';
import { imaginepro } from './imaginepro.ts';
import { legnext } from './legnext.ts';
import { mjProxy } from './mj-proxy.ts';
import { OPENAI_URL, openai, QUALITIES } from './openai.ts';
import { tnl } from './tnl.ts';

/**
 * The variables of the bridges, each under its name and the older one. In each value the parts are separated by commas. The part of a
 * bridge without a key, or with its default URL, is empty.
 */
export const BRIDGE_VARIABLES = {
  STILL_BRIDGE: v.optional(v.string()),
  STILL_API_KEY: v.optional(v.string()),
  STILL_BASE_URL: v.optional(v.string()),
  MIDJOURNEY_BRIDGE: v.optional(v.string()),
  MIDJOURNEY_API_KEY: v.optional(v.string()),
  MIDJOURNEY_BASE_URL: v.optional(v.string()),
  // Only for the bridge openai.
  STILL_MODEL: v.optional(v.string()),
  STILL_SIZES: v.optional(
    v.pipe(
      v.string(),
      v.regex(
        /^(auto|\d{2,4}x\d{2,4}(\s*,\s*\d{2,4}x\d{2,4})*)$/,
        'must be sizes such as 1024x1024,1536x1024, or auto',
      ),
      v.transform((text) => text.split(/\s*,\s*/)),
    ),
  ),
  STILL_QUALITY: v.optional(v.picklist(QUALITIES, `must be one of ${QUALITIES.join(', ')}`)),
  STILL_COUNT: optionalInteger(1, 4),
};
const OPENAI_VARIABLES = ['STILL_MODEL', 'STILL_SIZES', 'STILL_QUALITY', 'STILL_COUNT'] as const;

type Values = v.InferOutput<v.ObjectSchema<typeof BRIDGE_VARIABLES, undefined>> & { STILL_TIMEOUT: number };
type BridgeEnvironment = { [name in keyof Values]?: Values[name] | undefined };

/** Whether the environment names a bridge. */
export const hasBridge = ({ STILL_BRIDGE, MIDJOURNEY_BRIDGE }: NodeJS.ProcessEnv) =>
  Boolean(STILL_BRIDGE || MIDJOURNEY_BRIDGE);

/** @throws Error that names the variable */
export function openBridges(env: BridgeEnvironment): Bridge[] {
  const prefix = env.STILL_BRIDGE ? 'STILL' : 'MIDJOURNEY'; // errors name the variables as the operator does
  const { BRIDGE, API_KEY, BASE_URL } = readVariables(env);
  const names = BRIDGE ? BRIDGE.split(',').map((name) => name.trim()) : [];
  const unused = OPENAI_VARIABLES.find((name) => env[name] !== undefined && !names.includes('openai'));
  if (unused) throw new Error(`${unused} is only for STILL_BRIDGE openai`);
  if (names.length === 0) return [];
  const isBridge = (name: string): name is BridgeName => (BRIDGES as readonly string[]).includes(name);
  if (!names.every(isBridge) || new Set(names).size < names.length)
    throw new Error(`${prefix}_BRIDGE must be one of ${BRIDGES.join(', ')}, or several of them, separated by commas`);

  const split = (name: 'API_KEY' | 'BASE_URL', text: string | undefined) => {
    const parts = splitValue(text, names.length);
    if (text !== undefined && parts.length !== names.length)
      throw new Error(
        `${prefix}_${name} must have as many parts, separated by commas, as ${prefix}_BRIDGE: ${names.length}`,
      );
    return parts;
  };
  const keys = split('API_KEY', API_KEY);
  if (keys.some((key) => key && !/^[ -~]+$/.test(key)))
    throw new Error(`${prefix}_API_KEY must have only ASCII characters, and no line breaks`);
  const urls = split('BASE_URL', BASE_URL).map((url) => {
    const { success, output, issues } = v.safeParse(v.optional(httpUrl), url);
    if (!success) throw new Error(`${prefix}_BASE_URL ${issues[0].message}`);
    const { username, password, search, hash } = new URL(output ?? 'http://localhost');
    if (username || password || search || hash)
      throw new Error(`${prefix}_BASE_URL must be a URL without user name, password, query and fragment`);
    return output;
  });
  return names.map((name, i) => openBridge(name, { env, apiKey: keys[i], baseUrl: urls[i], prefix }));
}

/** @throws Error if a variable and its older name have different values */
function readVariables(env: BridgeEnvironment) {
  const read = (name: 'BRIDGE' | 'API_KEY' | 'BASE_URL') => {
    const [current, older] = [env[`STILL_${name}`], env[`MIDJOURNEY_${name}`]];
    if (current && older && current !== older)
      throw new Error(
        `STILL_${name} and MIDJOURNEY_${name} have different values; they are two names of one variable, so remove MIDJOURNEY_${name}`,
      );
    return current || older || undefined;
  };
  return { BRIDGE: read('BRIDGE'), API_KEY: read('API_KEY'), BASE_URL: read('BASE_URL') };
}

interface OpenOptions {
  env: BridgeEnvironment;
  apiKey: string | undefined;
  baseUrl: string | undefined;
  /** of the variables' names in errors */
  prefix: string;
}

function openBridge(name: BridgeName, options: OpenOptions): Bridge {
  const { apiKey, baseUrl, prefix } = options;
  if (name === 'openai') return openOpenai(options);
  if (name === 'mj-proxy') {
    if (!baseUrl) throw new Error(`${prefix}_BASE_URL is needed for ${prefix}_BRIDGE mj-proxy, which is your own`);
    return mjProxy({ apiKey, baseUrl });
  }
  if (!apiKey) throw new Error(`${prefix}_API_KEY is needed for ${prefix}_BRIDGE ${name}`);
  return { tnl, imaginepro, legnext }[name]({ apiKey, baseUrl });
}

function openOpenai({ env, apiKey, baseUrl, prefix }: OpenOptions): Bridge {
  const { STILL_MODEL: model, STILL_SIZES: sizes, STILL_QUALITY: quality, STILL_COUNT: count = 1 } = env;
  if (!model) throw new Error(`STILL_MODEL is needed for ${prefix}_BRIDGE openai`);
  if (!apiKey && !baseUrl) throw new Error(`${prefix}_API_KEY is needed for ${prefix}_BRIDGE openai at ${OPENAI_URL}`);
  if (model.startsWith('dall-e-3') && count > 1) throw new Error('STILL_COUNT must be 1 for dall-e-3');
  return openai({ apiKey, baseUrl, model, sizes, quality, count, answerTimeout: (env.STILL_TIMEOUT ?? 600) * SECOND });
}

/** The value of a variable for each of `count` bridges, trimmed. A single bridge gets the whole text, also if it contains commas. */
function splitValue(text: string | undefined, count: number): (string | undefined)[] {
  if (text === undefined) return [];
  const parts = count === 1 ? [text] : text.split(',');
  return parts.map((part) => part.trim() || undefined);
}
