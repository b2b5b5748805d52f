/** For tests of the client: scripted responses in place of a service. */
import { vi } from 'vitest';
import { createClient } from '../../client/index.ts';

export const problem = (status: number, code: string, headers: Record<string, string> = {}) =>
  new Response(JSON.stringify({ status, code, detail: `no: ${code}` }), {
    status,
    headers: { 'content-type': 'application/problem+json', ...headers },
  });
/** @param responses one for each request; an error is thrown */
export function scripted(...responses: (Response | Error)[]) {
  const send = vi.fn<typeof fetch>(async () => {
    const response = responses.shift()!;
    if (response instanceof Error) throw response;
    return response;
  });
  return { send, client: createClient({ url: 'http://api.example', fetch: send }) };
}
