/** The tools of the MCP server. Each calls what the HTTP API calls, so keys, scopes, limits and money are the same. */
import type { Context } from 'hono';
import * as v from 'valibot';
import { InvalidRequest } from '../../core/invalid-request.ts';
import { jsonSchema } from '../../core/parameter-schema.ts';
import { integer } from '../../core/parameter-types.ts';
import { unknownNames } from '../../core/request.ts';
import { RESPONSES } from '../../core/responses.ts';
import { takeInlinePicture } from '../http/inline-picture.ts';
import { requestSchemas } from '../openapi/document.ts';
import type { About } from '../openapi/examples.ts';
import { cancelTask } from '../routes/cancel.ts';
import { createTask, quoteTask } from '../routes/create-task.ts';
import { waitForEnd } from '../routes/img2vid.ts';
import { LIST_QUERY, readPage, selectTasks } from '../routes/list.ts';
import { TASK_QUERY } from '../routes/require-own-task.ts';
import { requirePublicTask } from '../routes/status.ts';
import type { Services } from '../services.ts';
import type { Scope } from '../store/key.ts';
import type { PublicTask } from '../store/task.ts';
import { idParameter, TASK_ID } from '../tasks/id.ts';
import { describeQuote, describeTask, picturesOf, summarize, type ToolContent } from './describe.ts';

/** Seconds. Clients give up a call after a minute without an answer. */
const [MAX_WAIT, DEFAULT_WAIT] = [50, 45];
const MAX_LISTED = 50;
const DEFAULT_LISTED = 10;
const INVALID_CURSOR = 'must be next_cursor of a previous result';

export type ToolResult = {
  content: ToolContent[];
  /** follows the tool's output schema; an error has none */
  structuredContent?: object;
  /** the tool could not do what it is for */
  isError?: boolean;
};

export interface Tool {
  name: string;
  title: string;
  description: string;
  /** that the API key needs */
  scope: Scope;
  annotations: { readOnlyHint: boolean; destructiveHint?: boolean; idempotentHint?: boolean; openWorldHint: boolean };
  /** JSON Schemas */
  inputSchema: object;
  outputSchema: object;
  /**
   * @param values unchecked arguments. The tool may remove some
   * @param onChange gets the task after each change, while the tool waits
   * @throws Problem each that the HTTP API documents
   * @throws InvalidRequest
   * @throws ClientDisconnected
   */
  call(
    c: Context,
    services: Services,
    values: Record<string, unknown>,
    onChange: (task: PublicTask) => unknown,
  ): Promise<ToolResult>;
}

const waitSchema = (usual: number) =>
  v.optional(
    integer(0, MAX_WAIT, `Seconds to wait for the end of the task, default ${usual}. 0 returns the task at once`),
    usual,
  );
const WAIT_QUERY = v.object({ wait: waitSchema(DEFAULT_WAIT) });
const GET_QUERY = v.object({ ...TASK_QUERY.entries, wait: waitSchema(0) });
const TASKS_QUERY = v.object({
  ...LIST_QUERY,
  limit: v.optional(integer(1, MAX_LISTED, `Number of tasks, default ${DEFAULT_LISTED}`), DEFAULT_LISTED),
  cursor: v.optional(
    v.pipe(
      idParameter(INVALID_CURSOR),
      v.regex(TASK_ID, INVALID_CURSOR),
      v.description('next_cursor of the previous result, for the tasks after it'),
    ),
  ),
  metadata: v.optional(v.pipe(LIST_QUERY.metadata.wrapped, v.description('Only tasks whose metadata has these texts'))),
});
const TASKS = v.object({
  tasks: v.array(
    v.pick(RESPONSES.Task, [
      ...(['id', 'status', 'stage', 'progress', 'queue_position', 'eta_seconds', 'created_at', 'input'] as const),
      ...(['share_link', 'links_expire_at', 'expired_at', 'error'] as const),
    ]),
  ),
  next_cursor: v.exactOptional(v.string()),
});

/** @throws InvalidRequest */
function check<E extends v.ObjectEntries>(schema: v.ObjectSchema<E, undefined>, values: Record<string, unknown>) {
  const { success, output, issues = [] } = v.safeParse(schema, values, { abortPipeEarly: true });
  const errors = unknownNames(Object.keys(values), schema.entries);
  for (const issue of issues)
    errors.push({
      field: String(v.getDotPath(issue)),
      message: issue.type === 'object' ? 'is required' : issue.message,
    });
  if (!success || errors.length > 0) throw new InvalidRequest(errors);
  return output;
}

/** Takes all values, so that a picture is in memory no longer than the returned object. */
function takeAll(values: Record<string, unknown>): Record<string, unknown> {
  const taken = { ...values };
  for (const name of Object.keys(values)) delete values[name];
  return taken;
}

async function resultOf(c: Context, services: Services, task: PublicTask): Promise<ToolResult> {
  const presented = await services.presentTask(task);
  return {
    content: [{ type: 'text', text: describeTask(presented) }, ...(await picturesOf(c, services, task))],
    structuredContent: presented,
  };
}

const makeClip = (about: About): Tool => ({
  name: 'make_clip',
  title: 'Make a clip',
  description: `Makes a short video (MP4) from a prompt or a picture, and waits for it. Needs one of prompt, image_url, image and still_of. If the video is not ready in time, the result is the unfinished task: call get_task with its id. The defaults suit most pictures.`,
  scope: 'submit',
  annotations: { readOnlyHint: false, destructiveHint: false, idempotentHint: false, openWorldHint: true },
  inputSchema: { type: 'object', properties: { ...clipParameters(about), ...propertiesOf(WAIT_QUERY) } },
  outputSchema: jsonSchema(RESPONSES.Task),
  async call(c, services, values, onChange) {
    const { wait } = check(WAIT_QUERY, 'wait' in values ? { wait: values.wait } : {});
    delete values.wait;
    const task = await createTask(c, services, takeInlinePicture(takeAll(values)));
    const latest = wait === 0 ? task : await waitForEnd(c, services, task, wait, onChange);
    return { ...(await resultOf(c, services, latest)), ...(latest.status === 'failed' && { isError: true }) };
  },
});

const quoteClip = (about: About): Tool => ({
  name: 'quote_clip',
  title: 'Quote a clip',
  description: 'Checks the parameters of make_clip and returns the highest cost of the clip. Makes nothing.',
  scope: 'submit',
  annotations: { readOnlyHint: true, openWorldHint: false },
  inputSchema: { type: 'object', properties: clipParameters(about, { isBrief: true }) },
  outputSchema: jsonSchema(RESPONSES.DryRun),
  async call(c, services, values) {
    const quote = await quoteTask(c, services, takeInlinePicture(takeAll(values)));
    return { content: [{ type: 'text', text: describeQuote(quote) }], structuredContent: quote };
  },
});

const getTask: Tool = {
  name: 'get_task',
  title: 'Look at a task',
  description: 'Returns a task: its progress and, at its end, the link to the video. Can wait for the end.',
  scope: 'read',
  annotations: { readOnlyHint: true, openWorldHint: false },
  inputSchema: jsonSchema(GET_QUERY),
  outputSchema: jsonSchema(RESPONSES.Task),
  async call(c, services, values, onChange) {
    const { id, wait } = check(GET_QUERY, values);
    const task = await requirePublicTask(c, services, id);
    services.lifecycle.watch(task);
    return resultOf(c, services, wait === 0 ? task : await waitForEnd(c, services, task, wait, onChange));
  },
};

const listTasks: Tool = {
  name: 'list_tasks',
  title: 'List tasks',
  description: 'Lists the tasks of this API key, newest first. get_task has the link to the video of each.',
  scope: 'read',
  annotations: { readOnlyHint: true, openWorldHint: false },
  inputSchema: jsonSchema(TASKS_QUERY),
  outputSchema: jsonSchema(TASKS),
  async call(c, services, values) {
    const { limit, cursor, ...filter } = check(TASKS_QUERY, values);
    const selection = selectTasks(c.get('key').id, cursor, filter);
    const { presented, next } = await readPage(
      c,
      services,
      limit,
      (count) => services.store.list({ ...selection, limit: count }),
      services.presentTask,
    );
    const text = presented.map(summarize).join('\n') || 'There are no such tasks.';
    const more = next === undefined ? '' : `\nThere are more tasks: pass the cursor ${next}.`;
    return {
      content: [{ type: 'text', text: text + more }],
      structuredContent: v.parse(TASKS, { tasks: presented, ...(next !== undefined && { next_cursor: next }) }),
    };
  },
};

const cancel: Tool = {
  name: 'cancel_task',
  title: 'Cancel a task',
  description:
    'Cancels a task. A queued task is canceled at once. A running one ends soon after, and may still succeed. The GPU time so far is charged.',
  scope: 'submit',
  annotations: { readOnlyHint: false, destructiveHint: true, idempotentHint: true, openWorldHint: false },
  inputSchema: jsonSchema(TASK_QUERY),
  outputSchema: jsonSchema(RESPONSES.Task),
  async call(c, services, values) {
    const { id } = check(TASK_QUERY, values);
    return resultOf(c, services, await cancelTask(c, services, id));
  },
};

/**
 * The parameters of a clip, without what only forms need. A model reads them all, so those of a second tool are brief. Clients take no
 * `anyOf` at the top of a schema, so the description says that a source is needed.
 */
function clipParameters(about: About, { isBrief = false } = {}): Record<string, object> {
  const isKept = (name: string) => !name.startsWith('x-') && name !== 'title' && !(isBrief && name === 'description');
  const entries = Object.entries<object>(requestSchemas(about).Request.properties).map(([name, schema]) => [
    name,
    Object.fromEntries(Object.entries(schema).filter(([keyword]) => isKept(keyword))),
  ]);
  return Object.fromEntries(entries);
}

const propertiesOf = (schema: v.GenericSchema) => (jsonSchema(schema) as { properties: object }).properties;

/** All tools of a service, in the order in which clients show them. */
export const createTools = (about: About): Tool[] => [makeClip(about), getTask, listTasks, cancel, quoteClip(about)];
