/**
 * The image's health check. Ends with 0 where the API answers, or where a worker lives: that one is busy for minutes with one run of
 * a network, and RunPod hears its pings. Else with 1 and a line that says why not.
 */
import { readdirSync, readFileSync } from 'node:fs';
import { get } from 'node:http';
import { basename } from 'node:path';
import { localUrl } from '../../api/http/host.ts';
import { defaultRole } from './roles.ts';

const { env } = process;

/** What start.js was told in this container, by whatever it was started: it need not be the first process. */
function runningRole(): string | undefined {
  for (const id of readdirSync('/proc').filter((name) => /^\d+$/.test(name))) {
    let command: string[];
    try {
      command = readFileSync(`/proc/${id}/cmdline`, 'utf8').split('\0').slice(0, -1);
    } catch {
      continue; // it has just ended
    }
    const [node = '', program = '', word = defaultRole(env)] = command;
    if (basename(node) === 'node' && program.endsWith('infra/image/start.js')) return word;
  }
  return undefined;
}

function end(fault?: string): never {
  if (fault !== undefined) console.error(fault);
  process.exit(fault === undefined ? 0 : 1);
}

const role = runningRole();
if (role === undefined) end('nothing runs');
if (role !== 'api' && role !== 'all') end();

const address = localUrl(env.HOST || '127.0.0.1', Number(env.PORT || 5000));
get(`${address}/healthz`, { timeout: 4000 }, ({ statusCode }) =>
  end(statusCode === 200 ? undefined : `/healthz answers ${statusCode}`),
)
  .on('timeout', () => end('/healthz does not answer'))
  .on('error', ({ message }) => end(`/healthz: ${message}`));
