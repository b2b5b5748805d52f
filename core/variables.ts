/**
 * What every environment variable means: the source of docs/configuration.md and .env.example. Code can't read a variable that has no row
 * here. Defaults and allowed values come from the schemas, except where a row states them.
 */

/** Who reads a variable. `start` is `npm start`, `npm run dev` and the image's role `all`; it passes all variables to API and worker. */
export type Program =
  | 'start'
  | 'API'
  | 'worker'
  | 'demo'
  | 'img2vid'
  | 'keys'
  | 'bucket'
  | 'models'
  | 'cuda'
  | 'deploy'
  | 'image'
  | 'pod'
  | 'pictures'
  | 'tests';

export interface Variable {
  by: readonly Program[];
  text: string;
  /** instead of the schema's, as Markdown */
  default?: string;
  /** instead of the schema's, as Markdown */
  allowed?: string;
  /** in .env.example, instead of the schema's default; without both the variable is left out there */
  example?: string;
  /** one of those that most people set */
  isCommon?: true;
}

const SECRET = { allowed: 'text', example: '' } as const;

/** By group, in the order of the documentation. */
export const VARIABLES = {
  Service: {
    PUBLIC_URL: {
      by: ['API', 'bucket'],
      isCommon: true,
      default:
        'on a RunPod pod its proxy URL for PORT; else HOST and PORT, with the loopback address for 0.0.0.0 and ::',
      allowed: 'an http or https URL without a path',
      example: 'https://video.example.com',
      text: 'The beginning of all links. Set it if other machines open them',
    },
    HOST: {
      by: ['start', 'API', 'image', 'pod'],
      isCommon: true,
      default: '`127.0.0.1`; `0.0.0.0` in the image and on a pod',
      allowed: 'an address or a host name',
      example: '127.0.0.1',
      text: 'The address at which the API listens. `0.0.0.0` admits other machines',
    },
    PORT: {
      by: ['start', 'API', 'image', 'pod'],
      default: '`5000`; with `npm start` and the demo the first free port from 5000 on',
      example: '5000',
      text: 'The port at which the API listens',
    },
    DATA_DIR: {
      by: ['start', 'API', 'worker', 'keys', 'image', 'pod'],
      isCommon: true,
      default: '`data`; `/data` in the image; with `npm start` and the demo `data-PORT` if another process uses `data`',
      allowed: 'a folder',
      example: 'data',
      text: 'Tasks, bucket and secrets. One process at a time may use it, unless the tasks are in PostgreSQL',
    },
    DATABASE_URL: {
      by: ['start', 'API', 'keys'],
      isCommon: true,
      default: '`tasks.db` in DATA_DIR',
      allowed: '`file:…` or `postgres://…`; in a file’s path `%25` for `%`',
      example: 'postgres://user:password@host/database',
      text: 'The database: a libSQL file, or PostgreSQL 15 or newer',
    },
    CORS_ORIGINS: {
      by: ['API', 'bucket'],
      default: 'none',
      allowed: 'origins, separated by commas, or `*`',
      example: 'https://app.example.com',
      text: 'Other web pages that may use the API. `*` is any, and applies only once API keys exist',
    },
    TRUST_PROXY: {
      by: ['API'],
      text: 'The number of proxies in front of the API, each of which adds to X-Forwarded-For',
    },
    ALLOW_PRIVATE_URLS: {
      by: ['API', 'worker'],
      text: '`1` allows `image_url` and `webhook_url` with addresses that are not public',
    },
    LINK_SECONDS: { by: ['API'], text: 'Seconds until a link expires' },
    TASK_DEADLINE_SECONDS: {
      by: ['API'],
      text: 'Seconds after which a task that has not ended fails with the code `expired`',
    },
    RETAIN_DAYS: {
      by: ['API', 'bucket'],
      text: 'Days that files, prompt and webhook deliveries are kept after the end of a task',
    },
    RUNPOD_LOG_LEVEL: {
      by: ['API', 'worker', 'image', 'pod'],
      default: '`INFO`',
      allowed: '`TRACE`, `DEBUG`, `INFO`, `WARN`, `ERROR`, `NOTSET`, or RunPod’s numbers 0 to 5',
      example: 'INFO',
      text: 'The lowest level that is logged',
    },
  },
  RunPod: {
    RUNPOD_API_KEY: {
      by: ['API', 'deploy'],
      isCommon: true,
      ...SECRET,
      text: 'RunPod’s API key, with read and write access. `npm start` needs it only with RUNPOD_ENDPOINT_ID',
    },
    RUNPOD_ENDPOINT_ID: {
      by: ['start', 'API', 'image', 'pod'],
      isCommon: true,
      default: 'none: everything runs on this machine',
      allowed: 'the id of an endpoint',
      example: '',
      text: 'The endpoint whose workers make the clips. `npm start` then starts the API alone',
    },
    RUNPOD_BASE_URL: {
      by: ['API', 'deploy'],
      default: '`https://api.runpod.ai/v2`',
      example: '',
      text: 'RunPod’s API for jobs',
    },
  },
  'Model and device': {
    MODEL: {
      by: ['start', 'API', 'worker', 'demo', 'deploy', 'image', 'pod'],
      isCommon: true,
      default: '`camera` with `npm start` and the demo, `svd_xt` on a pod with a GPU; else `svd_xt`',
      example: 'svd_xt',
      text: 'The model. API and worker need the same one',
    },
    MODEL_DIR: {
      by: ['worker', 'models', 'image', 'pod'],
      default: 'where `npm run models` put the files',
      allowed: 'a folder',
      example: '',
      text: 'The folder with `image_encoder`, `vae`, `unet` and `feature_extractor`. The worker then searches nowhere else',
    },
    DEVICE: {
      by: ['worker', 'pod'],
      default: '`auto`; `cuda` on a pod with a GPU, and for workers of `npm run deploy` with an SVD model',
      example: 'auto',
      text: 'Where the networks run. `auto` is CUDA if it works, else WebGPU on a GPU, else the CPU. `cuda` and `webgpu` fail without a working GPU',
    },
    WORKER_CONCURRENCY: {
      by: ['worker'],
      text: 'Jobs of one worker at a time. One uses the GPU, the others wait for a bridge, the GPU or the bucket',
    },
    HF_TOKEN: {
      by: ['models', 'image', 'pod'],
      ...SECRET,
      default: 'the file HF_TOKEN_PATH',
      text: 'Hugging Face’s token, for models whose licence must be accepted',
    },
    HF_TOKEN_PATH: {
      by: ['models', 'image', 'pod'],
      default: '`token` in HF_HOME',
      allowed: 'a file',
      text: 'The token that `hf auth login` has saved',
    },
    HF_HOME: {
      by: ['worker', 'models', 'image', 'pod'],
      default: '`~/.cache/huggingface`; `/data/huggingface` in the image',
      allowed: 'a folder',
      example: '',
      text: 'Where Hugging Face’s tools keep cache and token',
    },
    HF_HUB_CACHE: {
      by: ['worker', 'models', 'image', 'pod'],
      default: '`hub` in HF_HOME',
      allowed: 'a folder',
      example: '',
      text: 'Hugging Face’s cache: models are downloaded into it and searched in it',
    },
    HUGGINGFACE_HUB_CACHE: {
      by: ['worker', 'models', 'image', 'pod'],
      allowed: 'a folder',
      text: 'The older name of HF_HUB_CACHE',
    },
    XDG_CACHE_HOME: {
      by: ['worker', 'models', 'image', 'pod'],
      default: '`~/.cache`',
      allowed: 'a folder',
      text: 'The folder of HF_HOME’s default',
    },
    HF_ENDPOINT: { by: ['models', 'image', 'pod'], text: 'The Hugging Face hub, or a mirror of it' },
    HTTPS_PROXY: {
      by: ['models', 'image', 'pod'],
      allowed: 'a URL',
      text: 'A proxy for the downloads of models, also HTTP_PROXY, with exceptions in NO_PROXY',
    },
    CUDA_VISIBLE_DEVICES: {
      by: ['worker'],
      default: 'all GPUs',
      allowed: 'numbers or ids, separated by commas',
      text: 'The GPUs that CUDA shows. The worker uses the first',
    },
  },
  Bucket: {
    BUCKET_NAME: {
      by: ['demo', 'API', 'worker', 'bucket', 'deploy'],
      isCommon: true,
      default: 'none: the bucket is a folder in DATA_DIR',
      allowed: 'a bucket’s name',
      example: '',
      text: 'The S3 bucket. API and worker need the same one',
    },
    BUCKET_ENDPOINT_URL: {
      by: ['API', 'worker', 'bucket', 'deploy'],
      isCommon: true,
      default: 'AWS S3',
      allowed: 'an http or https URL',
      example: '',
      text: 'The URL of the S3 store. At AWS, Cloudflare, Backblaze and DigitalOcean it may begin with the bucket’s name',
    },
    BUCKET_ACCESS_KEY_ID: {
      by: ['API', 'worker', 'bucket', 'deploy'],
      isCommon: true,
      ...SECRET,
      default: 'AWS_ACCESS_KEY_ID',
      text: 'The credentials of the bucket',
    },
    BUCKET_SECRET_ACCESS_KEY: {
      by: ['API', 'worker', 'bucket', 'deploy'],
      isCommon: true,
      ...SECRET,
      default: 'AWS_SECRET_ACCESS_KEY',
      text: 'The second half of the credentials',
    },
    BUCKET_REGION: {
      by: ['API', 'worker', 'bucket', 'deploy'],
      isCommon: true,
      default: 'that in the store’s URL, else AWS_REGION',
      allowed: 'a region’s name',
      example: '',
      text: 'The region of the bucket',
    },
    AWS_ENDPOINT_URL_S3: {
      by: ['API', 'worker', 'bucket'],
      allowed: 'an http or https URL',
      text: 'The store’s URL if BUCKET_NAME is set and BUCKET_ENDPOINT_URL is not',
    },
    AWS_ENDPOINT_URL: {
      by: ['API', 'worker', 'bucket'],
      allowed: 'an http or https URL',
      text: 'As AWS_ENDPOINT_URL_S3, which wins',
    },
    AWS_ACCESS_KEY_ID: {
      by: ['API', 'worker', 'bucket'],
      allowed: 'text',
      text: 'The credentials if none of the BUCKET_ credentials is set',
    },
    AWS_SECRET_ACCESS_KEY: { by: ['API', 'worker', 'bucket'], allowed: 'text', text: 'Belongs to AWS_ACCESS_KEY_ID' },
    AWS_SESSION_TOKEN: { by: ['API', 'worker', 'bucket'], allowed: 'text', text: 'Belongs to AWS_ACCESS_KEY_ID' },
    AWS_REGION: {
      by: ['API', 'worker', 'bucket'],
      default: 'AWS_DEFAULT_REGION',
      allowed: 'a region’s name',
      text: 'The region if nothing else states it',
    },
    AWS_DEFAULT_REGION: {
      by: ['API', 'worker', 'bucket'],
      default: '`us-east-1`',
      allowed: 'a region’s name',
      text: 'The region if AWS_REGION is not set',
    },
  },
  Stills: {
    STILL_BRIDGE: {
      by: ['start', 'worker', 'deploy'],
      isCommon: true,
      default: 'none: a placeholder is drawn on one machine, else prompts are refused',
      allowed: '`tnl`, `imaginepro`, `legnext`, `mj-proxy`, `openai`; several are separated by commas',
      example: 'legnext',
      text: 'The bridges that make pictures from prompts, in the order in which they are tried',
    },
    STILL_API_KEY: {
      by: ['worker', 'deploy'],
      isCommon: true,
      allowed: 'a key for each bridge, separated by commas; `mj-proxy` and `openai` may have none',
      example: '',
      text: 'The keys of the bridges',
    },
    STILL_BASE_URL: {
      by: ['worker', 'deploy'],
      default: 'the bridge’s own URL; none for `mj-proxy`',
      allowed: 'a URL for each bridge, separated by commas; one may be empty',
      example: '',
      text: 'The URLs of the bridges. `mj-proxy` needs one',
    },
    STILL_MODEL: {
      by: ['worker', 'deploy'],
      isCommon: true,
      default: 'none: `openai` needs one',
      allowed: 'a model of the server',
      example: '',
      text: 'The model that draws, only for the bridge `openai`',
    },
    STILL_SIZES: {
      by: ['worker', 'deploy'],
      default: 'OpenAI’s for its models; for others any size of about a megapixel',
      allowed: 'sizes such as `1024x1024,1536x1024`, or `auto`',
      text: 'The sizes that the model accepts, only for `openai`. The nearest to the clip’s aspect ratio is used',
    },
    STILL_QUALITY: {
      by: ['worker', 'deploy'],
      default: 'the server’s',
      text: 'The quality of the pictures, only for `openai`. Models differ in what they accept',
    },
    STILL_COUNT: {
      by: ['worker', 'deploy'],
      default: '`1`',
      text: 'Pictures of a prompt, each of which costs, only for `openai`. The others draw four',
    },
    STILL_TIMEOUT: { by: ['API', 'worker', 'deploy'], text: 'Seconds that a bridge may take' },
    MIDJOURNEY_BRIDGE: {
      by: ['start', 'worker', 'deploy'],
      allowed: 'as STILL_BRIDGE',
      text: 'The older name of STILL_BRIDGE',
    },
    MIDJOURNEY_API_KEY: {
      by: ['worker', 'deploy'],
      allowed: 'as STILL_API_KEY',
      text: 'The older name of STILL_API_KEY',
    },
    MIDJOURNEY_BASE_URL: {
      by: ['worker', 'deploy'],
      allowed: 'as STILL_BASE_URL',
      text: 'The older name of STILL_BASE_URL',
    },
  },
  'Limits and prices': {
    MAX_FRAMES: { by: ['API', 'demo'], text: 'The highest `T` of a request' },
    MAX_FPS: { by: ['API', 'demo'], text: 'The highest `fps` of a request' },
    MAX_OPEN_TASKS: {
      by: ['API'],
      default: '`100`; no limit without keys',
      example: '100',
      text: 'Active tasks of a key that has no limit of its own',
    },
    MAX_UPLOADS_MB: {
      by: ['API'],
      default: '`1000`; no limit without keys',
      example: '1000',
      text: 'Megabytes of the pictures that a key has uploaded for its active tasks',
    },
    SUBMISSIONS_PER_MINUTE: {
      by: ['API'],
      default: '`60`; no limit without keys',
      example: '60',
      text: 'Accepted tasks a minute of a key that has no limit of its own, over all processes',
    },
    REQUESTS_PER_MINUTE: {
      by: ['API'],
      default: '`1200`; no limit without keys',
      example: '1200',
      text: 'Requests a minute of a key that has no limit of its own, in each process',
    },
    PRICE_PER_GPU_SECOND: {
      by: ['API'],
      default: '`0`',
      allowed: '0–100, at most 12 decimals',
      example: '0.00034',
      text: 'The price of a second of sampling and decoding, in units of CURRENCY',
    },
    PRICE_PER_STILL: {
      by: ['API'],
      default: '`0`',
      allowed: '0–100000, at most 12 decimals',
      example: '0.05',
      text: 'The price of what a bridge draws for one prompt, all its pictures together',
    },
    CURRENCY: { by: ['API'], allowed: 'three capital letters', text: 'The currency of prices and budgets' },
  },
  Clients: {
    IMG2VID_URL: {
      by: ['img2vid'],
      default: '`http://127.0.0.1:5000`',
      allowed: 'an http or https URL',
      example: 'http://127.0.0.1:5000',
      text: 'The service that the command line uses',
    },
    IMG2VID_API_KEY: {
      by: ['img2vid', 'demo'],
      default: 'none',
      allowed: 'an API key, `i2v_…`',
      example: '',
      text: 'The API key of the command line and the demo',
    },
  },
  Deploy: {
    IMAGE: {
      by: ['deploy'],
      default: '`image` of the endpoint file',
      allowed: 'an image’s name with its tag',
      example: 'docker.io/you/img2vid:0.1.0',
      text: 'The image of the workers',
    },
    RUNPOD_REST_URL: { by: ['deploy'], example: '', text: 'RunPod’s API for endpoints, templates and volumes' },
    RUNPOD_INIT_TIMEOUT: {
      by: ['deploy'],
      default: '`420`',
      allowed: 'seconds',
      example: '1200',
      text: 'How long a worker may take to start. `npm run deploy` passes it to RunPod, which reads it',
    },
  },
  Pod: {
    APP_REPO: { by: ['pod'], allowed: 'a git URL', text: 'The code that a pod fetches' },
    APP_TAG: { by: ['pod'], allowed: 'a tag of APP_REPO', text: 'Its version' },
    NODE_URL: {
      by: ['pod'],
      default: '`https://nodejs.org/dist/v24.22.3`',
      allowed: 'a URL',
      text: 'Where a pod fetches Node if the image has none that is new enough',
    },
  },
  'Set for you': {
    RUNPOD_POD_ID: { by: ['API', 'worker'], allowed: 'set by RunPod', text: 'The id of the pod or worker' },
    RUNPOD_WEBHOOK_GET_JOB: {
      by: ['worker', 'image'],
      allowed: 'set by RunPod',
      text: 'The queue. Without it the worker runs one test job',
    },
    RUNPOD_WEBHOOK_POST_OUTPUT: { by: ['worker'], allowed: 'set by RunPod', text: 'Where results go' },
    RUNPOD_WEBHOOK_POST_STREAM: { by: ['worker'], allowed: 'set by RunPod', text: 'Where parts of results go' },
    RUNPOD_WEBHOOK_PING: { by: ['worker'], allowed: 'set by RunPod', text: 'Where pings go' },
    RUNPOD_PING_INTERVAL: {
      by: ['worker'],
      default: '`10000`',
      allowed: 'set by RunPod',
      text: 'Milliseconds between pings',
    },
    RUNPOD_AI_API_KEY: { by: ['worker'], allowed: 'set by RunPod', text: 'The worker’s key for its queue' },
    CALLBACK_URL: {
      by: ['API'],
      default: 'PUBLIC_URL',
      allowed: 'set by `npm start`',
      text: 'Where RunPod’s callbacks reach the API',
    },
    LOCAL_BRIDGE: {
      by: ['API'],
      allowed: 'set by `npm start`',
      text: 'What happens to prompts without a bridge: `placeholder` or `none`',
    },
    FRAMES_DIR: { by: ['worker'], allowed: 'set by the demo’s `--frames`', text: 'Where the worker saves every frame' },
    INIT_CWD: {
      by: ['img2vid', 'demo', 'deploy'],
      allowed: 'set by npm',
      text: 'The folder in which you called `npm run`',
    },
    npm_package_json: { by: ['img2vid', 'demo', 'deploy'], allowed: 'set by npm', text: 'The package of the script' },
    npm_execpath: { by: ['demo', 'pod'], allowed: 'set by npm', text: 'The npm that installs the packages' },
    HOME: { by: ['worker', 'models'], allowed: 'set by the system', text: 'Your home folder, `~` above' },
    PATH: { by: ['start', 'cuda', 'tests'], allowed: 'set by the system', text: 'Where programs are searched' },
  },
  Development: {
    CHROMIUM: {
      by: ['pictures', 'tests'],
      default: '`/usr/bin/chromium`',
      allowed: 'a program',
      text: 'The browser of `npm run pictures` and of tests',
    },
    S3_SERVER: {
      by: ['tests'],
      default: '`versitygw` in PATH',
      allowed: 'a program',
      text: 'The S3 server of tests',
    },
  },
} as const satisfies Record<string, Record<string, Variable>>;

type Names<G> = G extends G ? keyof G : never;
export type VariableName = Names<(typeof VARIABLES)[keyof typeof VARIABLES]>;
