import { endpoint } from '../http/endpoint.ts';
import { readJsonBody } from '../http/read-body.ts';
import { createTools } from '../mcp/tools.ts';

/** The MCP server. Each tool requires a scope of its own. */
export const mcp = endpoint({
  method: 'POST',
  path: '/mcp',
  scope: 'any',
  handle(services) {
    const tools = createTools(services.config);
    return async (c) => {
      const message = await readJsonBody(c, services.reserveBody);
      const { respondToMessage } = await import('../mcp/server.ts'); // it takes 0.3 s and 25 MB, and few services need it
      return respondToMessage(c, services, tools, message);
    };
  },
});
