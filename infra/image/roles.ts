/** What the image can run: the words that may follow its name on the command line, and their programs. */

/** They serve until SIGTERM. */
export const ROLES = { all: 'infra/run/start', api: 'api/index', worker: 'handler/index' };
/** They do one thing and end. */
export const TOOLS = {
  keys: 'infra/tools/keys',
  bucket: 'infra/tools/bucket',
  models: 'infra/tools/models',
  device: 'infra/tools/device',
};

/** RunPod's serverless workers can be started without a word: there RunPod sets the URL of its queue. */
export const defaultRole = (env: NodeJS.ProcessEnv): keyof typeof ROLES =>
  env.RUNPOD_WEBHOOK_GET_JOB ? 'worker' : 'all';
