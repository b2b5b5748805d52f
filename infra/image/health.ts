/**
 * The image's health check. Ends with 0 if the API answers, and for a worker if it runs: a worker can be busy for minutes, and RunPod
 * gets its pings. Otherwise it prints the reason and ends with 1.
 */
import '../run/env-file.mjs';
import { readdirSync, readFileSync } from 'node:fs';
import { get } from 'node:http';
import { basename } from 'node:path';
import { localUrl } from '../../api/http/host.ts';
import { defaultRole } from './roles.ts';

const { env } = process;

/** The role of start.js in this container. It need not be the first process. */
function runningRole(): string | undefined {
  for (const id of readdirSync('/proc').filter((name) => /^\d+$/.test(name))) {
    let command: string[];
    try {
      command = readFileSync(`/proc/${id}/cmdline`, 'utf8').split('\0').slice(0, -1);
    } catch {
      continue; // it has ended
    }
    const [node = '', program = '', role = defaultRole(env)] = command;
    if (basename(node) === 'node' && program.endsWith('infra/image/start.js')) return role;
  }
  return undefined;
}

function end(failure?: string): never {
  if (failure !== undefined) console.error(failure);
  process.exit(failure === undefined ? 0 : 1);
}

const role = runningRole();
if (role === undefined) end('no role is running');
if (role !== 'api' && role !== 'all') end();

const url = localUrl(env.HOST || '127.0.0.1', Number(env.PORT || 5000));
get(`${url}/healthz`, { timeout: 4000 }, ({ statusCode }) =>
  end(statusCode === 200 ? undefined : `/healthz answers ${statusCode}`),
)
  .on('timeout', () => end('/healthz does not answer'))
  .on('error', ({ message }) => end(`/healthz: ${message}`));
