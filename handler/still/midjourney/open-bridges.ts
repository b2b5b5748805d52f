/** The bridges that the environment names, in order. */
import * as v from 'valibot';
import { httpUrl } from '../../../core/environment.ts';
import { BRIDGES, type Bridge, type BridgeName } from './bridge.ts';
import { imaginepro } from './imaginepro.ts';
import { legnext } from './legnext.ts';
import { mjProxy } from './mj-proxy.ts';
import { tnl } from './tnl.ts';

export interface BridgeEnvironment {
  /** names, separated by commas */
  MIDJOURNEY_BRIDGE?: string | undefined;
  /** of one bridge, or as many as there are bridges, separated by commas; one without a key leaves its place empty */
  MIDJOURNEY_API_KEY?: string | undefined;
  /** likewise; an empty place is the bridge's own address */
  MIDJOURNEY_BASE_URL?: string | undefined;
}

/** @throws Error that names the variable */
export function openBridges(env: BridgeEnvironment): Bridge[] {
  if (!env.MIDJOURNEY_BRIDGE) return [];
  const names = env.MIDJOURNEY_BRIDGE.split(',').map((name) => name.trim());
  const isBridge = (name: string): name is BridgeName => (BRIDGES as readonly string[]).includes(name);
  if (!names.every(isBridge) || new Set(names).size < names.length)
    throw new Error(`MIDJOURNEY_BRIDGE must be one of ${BRIDGES.join(', ')}, or several of them, separated by commas`);

  const keys = inOrder('MIDJOURNEY_API_KEY', env.MIDJOURNEY_API_KEY, names);
  const urls = inOrder('MIDJOURNEY_BASE_URL', env.MIDJOURNEY_BASE_URL, names).map((url) => {
    const { success, output, issues } = v.safeParse(v.optional(httpUrl), url);
    if (!success) throw new Error(`MIDJOURNEY_BASE_URL ${issues[0].message}`);
    return output;
  });
  return names.map((name, i) => open(name, keys[i], urls[i]));
}

function open(name: BridgeName, apiKey: string | undefined, baseUrl: string | undefined): Bridge {
  if (name === 'mj-proxy') {
    if (!baseUrl) throw new Error('MIDJOURNEY_BASE_URL is needed for MIDJOURNEY_BRIDGE mj-proxy, which is your own');
    return mjProxy({ apiKey, baseUrl });
  }
  if (!apiKey) throw new Error(`MIDJOURNEY_API_KEY is needed for MIDJOURNEY_BRIDGE ${name}`);
  return { tnl, imaginepro, legnext }[name]({ apiKey, baseUrl });
}

/** A variable's value for each bridge: the whole text for one, its parts for several. */
function inOrder(variable: string, text: string | undefined, names: string[]): (string | undefined)[] {
  const parts = text === undefined || names.length === 1 ? [text] : text.split(',').map((part) => part.trim());
  if (text !== undefined && parts.length !== names.length)
    throw new Error(`${variable} must have as many parts, separated by commas, as MIDJOURNEY_BRIDGE: ${names.length}`);
  return names.map((_, i) => parts[i] || undefined);
}
