/** Errors in JSON-RPC's form, which clients of the MCP server read, where its SDK has not seen the message. */
export const isMcpPath = (path: string) => path === '/mcp';

/** JSON-RPC's codes, and the one that MCP's SDK sends for other refusals. */
const [PARSE_ERROR, INVALID_REQUEST, INTERNAL_ERROR, REFUSED] = [-32700, -32600, -32603, -32000];

/**
 * @param data the error in the form that other paths have
 * @param cause present if the message could not be parsed
 * @returns the body; its `id` is null, because the message was not read
 */
export function jsonRpcError(data: { code: string; status: number; detail: string }, cause: unknown) {
  return { jsonrpc: '2.0', error: { code: codeOf(data, cause), message: data.detail, data }, id: null };
}

function codeOf({ code, status }: { code: string; status: number }, cause: unknown): number {
  if (code === 'unreadable') return cause === undefined ? INVALID_REQUEST : PARSE_ERROR;
  return status === 500 ? INTERNAL_ERROR : REFUSED;
}
