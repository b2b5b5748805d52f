/** For tests of the client: a service that answers as it is told. */
import { vi } from 'vitest';
import { createClient } from '../../client/index.ts';

export const problem = (status: number, code: string, headers: Record<string, string> = {}) =>
  new Response(JSON.stringify({ status, code, detail: `no: ${code}` }), {
    status,
    headers: { 'content-type': 'application/problem+json', ...headers },
  });
/** @param answers one for each request; an error is thrown */
export function scripted(...answers: (Response | Error)[]) {
  const send = vi.fn<typeof fetch>(async () => {
    const answer = answers.shift()!;
    if (answer instanceof Error) throw answer;
    return answer;
  });
  return { send, client: createClient({ url: 'http://api.example', fetch: send }) };
}
