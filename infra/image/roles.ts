/** What a container can be told to be: the words that may follow the image's name, and the programs behind them. */

/** They serve until SIGTERM. */
export const ROLES = { all: 'infra/run/start', api: 'api/index', worker: 'handler/index' };
/** They do one thing and end. */
export const TOOLS = { keys: 'infra/tools/keys', bucket: 'infra/tools/bucket', models: 'infra/tools/models' };

/** On RunPod's serverless workers, where nobody may have said a word, RunPod names the queue. */
export const defaultRole = (env: NodeJS.ProcessEnv): keyof typeof ROLES =>
  env.RUNPOD_WEBHOOK_GET_JOB ? 'worker' : 'all';
