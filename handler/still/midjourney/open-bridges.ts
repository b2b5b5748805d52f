/** Opens the bridges that the environment names, in order. */
import * as v from 'valibot';
import { httpUrl } from '../../../core/environment.ts';
import { BRIDGES, type Bridge, type BridgeName } from './bridge.ts';
import { imaginepro } from './imaginepro.ts';
import { legnext } from './legnext.ts';
import { mjProxy } from './mj-proxy.ts';
import { tnl } from './tnl.ts';

/** In each variable the parts are separated by commas. The part of a bridge without a key, or with its default URL, is empty. */
type Variable = 'MIDJOURNEY_BRIDGE' | 'MIDJOURNEY_API_KEY' | 'MIDJOURNEY_BASE_URL';
type BridgeEnvironment = { [name in Variable]?: string | undefined };

/** @throws Error that names the variable */
export function openBridges(env: BridgeEnvironment): Bridge[] {
  if (!env.MIDJOURNEY_BRIDGE) return [];
  const names = env.MIDJOURNEY_BRIDGE.split(',').map((name) => name.trim());
  const isBridge = (name: string): name is BridgeName => (BRIDGES as readonly string[]).includes(name);
  if (!names.every(isBridge) || new Set(names).size < names.length)
    throw new Error(`MIDJOURNEY_BRIDGE must be one of ${BRIDGES.join(', ')}, or several of them, separated by commas`);

  const keys = splitValue('MIDJOURNEY_API_KEY', env.MIDJOURNEY_API_KEY, names.length);
  const urls = splitValue('MIDJOURNEY_BASE_URL', env.MIDJOURNEY_BASE_URL, names.length).map((url) => {
    const { success, output, issues } = v.safeParse(v.optional(httpUrl), url);
    if (!success) throw new Error(`MIDJOURNEY_BASE_URL ${issues[0].message}`);
    return output;
  });
  return names.map((name, i) => openBridge(name, keys[i], urls[i]));
}

function openBridge(name: BridgeName, apiKey: string | undefined, baseUrl: string | undefined): Bridge {
  if (name === 'mj-proxy') {
    if (!baseUrl) throw new Error('MIDJOURNEY_BASE_URL is needed for MIDJOURNEY_BRIDGE mj-proxy, which is your own');
    return mjProxy({ apiKey, baseUrl });
  }
  if (!apiKey) throw new Error(`MIDJOURNEY_API_KEY is needed for MIDJOURNEY_BRIDGE ${name}`);
  return { tnl, imaginepro, legnext }[name]({ apiKey, baseUrl });
}

/** The value of a variable for each of `count` bridges. A single bridge gets the whole text, also if it contains commas. */
function splitValue(variable: Variable, text: string | undefined, count: number): (string | undefined)[] {
  if (text === undefined) return [];
  const parts = count === 1 ? [text] : text.split(',').map((part) => part.trim());
  if (parts.length !== count)
    throw new Error(`${variable} must have as many parts, separated by commas, as MIDJOURNEY_BRIDGE: ${count}`);
  return parts.map((part) => part || undefined);
}
