/** The MCP server (Model Context Protocol, streamable HTTP): stateless, one for each request, for clients of all revisions. */
// biome-ignore lint/style/noRestrictedImports: This module is the only importer of the SDK.
import { createMcpHandler, type Tool as ListedTool, McpServer, ProtocolError } from '@modelcontextprotocol/server';
import type { Context } from 'hono';
import type { StatusCode } from 'hono/utils/http-status';
import { ClientDisconnected } from '../http/problem.ts';
import { toProblem } from '../http/to-problem.ts';
import { VERSION } from '../openapi/document.ts';
import type { Services } from '../services.ts';
import type { PublicTask } from '../store/task.ts';
import type { Tool, ToolResult } from './tools.ts';

/** JSON-RPC's error code. */
const INVALID_PARAMS = -32602;

type Arguments = Record<string, unknown>;
type Notify = (notification: { method: string; params: Record<string, unknown> }) => Promise<void>;

/**
 * Responds to one JSON-RPC message.
 * @param message unchecked; it loses the arguments of its tool, so that the SDK does not keep a picture while the tool waits
 */
export async function respondToMessage(
  c: Context,
  services: Services,
  tools: Tool[],
  message: Record<string, unknown>,
): Promise<Response> {
  const values = takeArguments(message);
  const { fetch } = createMcpHandler(() => createServer(c, services, tools, values), {
    onerror: (error) => c.get('log').debug({ error }, 'MCP message refused'),
  });
  const { body, status, headers } = await fetch(c.req.raw, { parsedBody: message });
  headers.set('cache-control', 'no-store'); // results contain links
  return c.newResponse(body, status as StatusCode, Object.fromEntries(headers));
}

function takeArguments({ params }: Record<string, unknown>): Arguments {
  const call = Object(params) as { arguments?: unknown };
  if (typeof call.arguments !== 'object' || call.arguments === null || Array.isArray(call.arguments)) return {};
  const values = call.arguments as Arguments;
  call.arguments = {};
  return values;
}

function createServer(c: Context, services: Services, tools: Tool[], values: Arguments): McpServer {
  const mcp = new McpServer(
    { name: 'img2vid', title: 'Text to Video', version: VERSION, websiteUrl: services.config.publicUrl },
    {
      capabilities: { tools: { listChanged: false } }, // by default it is true, and clients could hold a stream open
      instructions: 'Makes short videos from prompts or pictures. Each video is a task.',
    },
  );
  const listed = tools.map(({ scope: _, call: __, ...tool }) => tool as ListedTool);
  mcp.server.setRequestHandler('tools/list', () => ({ tools: listed }));
  mcp.server.setRequestHandler('tools/call', ({ params }, { mcpReq }) => {
    const tool = tools.find(({ name }) => name === params.name);
    if (!tool) throw new ProtocolError(INVALID_PARAMS, `there is no tool ${params.name}`);
    const token = params._meta?.progressToken;
    return callTool(c, services, tool, values, progressReporter(token, mcpReq.notify));
  });
  return mcp;
}

/** @returns the tool's result; an error is one, too, with the text that the HTTP API has for it. @throws ClientDisconnected */
async function callTool(
  c: Context,
  services: Services,
  tool: Tool,
  values: Arguments,
  onChange: (task: PublicTask) => unknown,
): Promise<ToolResult> {
  try {
    c.get('requireScope')(tool.scope);
    return await tool.call(c, services, values, onChange);
  } catch (error) {
    if (error instanceof ClientDisconnected) throw error;
    const { message, options } = toProblem(c, error);
    const seconds = options.headers?.['retry-after'];
    const text = seconds === undefined ? message : `${message}. Retry after ${seconds} s`;
    return { content: [{ type: 'text', text }], isError: true };
  }
}

/** Tells the client how far a task is, if it has asked for it. Progress must rise from one message to the next. */
function progressReporter(progressToken: string | number | undefined, notify: Notify) {
  let last = -1;
  return async ({ progress, stage, status }: PublicTask): Promise<void> => {
    if (progressToken === undefined || progress <= last) return;
    last = progress;
    await notify({
      method: 'notifications/progress',
      params: { progressToken, progress, total: 1, message: stage ?? status },
    });
  };
}
