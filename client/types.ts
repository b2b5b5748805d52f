// `npm run docs` writes this file from the schemas in core/.

/** The parameters of a request; a service may have other limits. */
export interface RequestParameters {
  /** What the still shows; may end with Midjourney’s flags, such as --ar and --stylize (1–4,000 characters) */
  prompt?: string | undefined;
  /** Public URL of the picture to animate: jpeg, png, webp, avif, gif or tiff, at most 20 MB, 64 megapixels and 65,535 pixels a side (an http(s) URL) */
  image_url?: string | undefined;
  /** Height of the frames in pixels. By default it follows from aspect_ratio, and from W if that is given (64–2048, multiples of 64; default from aspect_ratio; the model’s own: 480 (camera), 576 (svd, svd_xt, svd_xt_1_1, animatelcm_svd_xt)) */
  H?: number | undefined;
  /** Width of the frames in pixels. By default it follows from aspect_ratio, and from H if that is given (64–2048, multiples of 64; default from aspect_ratio; the model’s own: 848 (camera), 1024 (svd, svd_xt, svd_xt_1_1, animatelcm_svd_xt)) */
  W?: number | undefined;
  /** Aspect ratio of the frames. auto is that of the picture, or of the prompt’s --ar. Ignored if W and H are given (auto, or W:H from 9:21 to 21:9; default auto) */
  aspect_ratio?: string | undefined;
  /** Number of frames. The clip lasts T / fps seconds (1–100; default 73 (camera), 14 (svd), 25 (svd_xt, svd_xt_1_1, animatelcm_svd_xt)) */
  T?: number | undefined;
  /** Noise added to the still. More noise lets the clip differ more from the still. Not used by the camera (0–1; default 0.02) */
  cond_aug?: number | undefined;
  /** Random seed. The same request with the same seed gives the same clip, byte for byte (0–1e9; default random, and reported) */
  seed?: number | undefined;
  /** Frames decoded at a time, at most T. Fewer frames need less memory but flicker more. Not used by the camera (1–1e9; default 14) */
  decoding_t?: number | undefined;
  /** Frames per second. The models were trained with 5 to 30 (1–120; default 24 (camera), 6 (svd, svd_xt, svd_xt_1_1), 7 (animatelcm_svd_xt)) */
  fps?: number | undefined;
  /** Amount of movement. The models were trained with values up to 255 (0–512; default 127) */
  motion_bucket_id?: number | undefined;
  /** Number of videos from one still, with the seeds seed, seed + 1, … Several videos also come as one grid (1–10; default 1) */
  num_cols?: number | undefined;
  /** Set of sampling parameters; those of the request override it. exact: the model’s own. fast: steps 10, sampler DPMPP2MSampler, discretization AlignYourStepsDiscretization, cache_interval 2, cache_depth 2. draft: the network AnimateLCM with fps 7, steps 4, sampler LCMSampler, discretization LCMDiscretization, guider IdentityGuider; only with the model svd_xt. Not used by the camera and AnimateLCM (default exact) */
  speed?: 'exact' | 'fast' | 'draft' | undefined;
  /** Number of sampling steps. More steps take longer and may show finer detail (1–1000; default 12 (camera), 25 (svd), 30 (svd_xt, svd_xt_1_1), 4 (animatelcm_svd_xt)) */
  steps?: number | undefined;
  /** Sampling algorithm, named as in Stability AI’s code (default EulerEDMSampler (camera, svd, svd_xt, svd_xt_1_1), LCMSampler (animatelcm_svd_xt)) */
  sampler?:
    | 'EulerEDMSampler'
    | 'HeunEDMSampler'
    | 'EulerAncestralSampler'
    | 'DPMPP2SAncestralSampler'
    | 'DPMPP2MSampler'
    | 'LinearMultistepSampler'
    | 'LCMSampler'
    | undefined;
  /** How much noise is added back while sampling, over all steps. Only for sampler EulerEDMSampler, HeunEDMSampler (≥ 0; default 0) */
  s_churn?: number | undefined;
  /** Lowest sigma at which noise is added back. Only for sampler EulerEDMSampler, HeunEDMSampler (≥ 0; default 0) */
  s_tmin?: number | undefined;
  /** Highest sigma at which noise is added back. Only for sampler EulerEDMSampler, HeunEDMSampler (≥ 0; default 999) */
  s_tmax?: number | undefined;
  /** Scale of the noise that is added back; for the ancestral samplers at most 1. Only for sampler EulerEDMSampler, HeunEDMSampler, EulerAncestralSampler, DPMPP2SAncestralSampler, LCMSampler (≥ 0; default 1) */
  s_noise?: number | undefined;
  /** Share of each step that is fresh noise. Only for sampler EulerAncestralSampler, DPMPP2SAncestralSampler (0–1; default 1) */
  eta?: number | undefined;
  /** Order of the method: how many slopes each step uses, at most steps. Only for sampler LinearMultistepSampler (1–1e9; default 4) */
  order?: number | undefined;
  /** How the noise levels are spaced (default EDMDiscretization (camera, svd, svd_xt, svd_xt_1_1), LCMDiscretization (animatelcm_svd_xt)) */
  discretization?:
    | 'EDMDiscretization'
    | 'LegacyDDPMDiscretization'
    | 'AlignYourStepsDiscretization'
    | 'LCMDiscretization'
    | undefined;
  /** Last noise level before 0. Must be below sigma_max. Only for discretization EDMDiscretization (> 0; default 0.002 (camera, svd, svd_xt, svd_xt_1_1), 0.0292 (animatelcm_svd_xt)) */
  sigma_min?: number | undefined;
  /** First noise level. Only for discretization EDMDiscretization (> 0; default 700 (camera, svd, svd_xt, svd_xt_1_1), 14.6146 (animatelcm_svd_xt)) */
  sigma_max?: number | undefined;
  /** How much denser the steps are at low noise. Only for discretization EDMDiscretization (> 0; default 7 (camera, svd, svd_xt, svd_xt_1_1), 3 (animatelcm_svd_xt)) */
  rho?: number | undefined;
  /** Rule for how strongly the still guides each frame (default LinearPredictionGuider (camera, svd, svd_xt, svd_xt_1_1), IdentityGuider (animatelcm_svd_xt)) */
  guider?: 'LinearPredictionGuider' | 'VanillaCFG' | 'IdentityGuider' | undefined;
  /** Guidance scale of every frame. Only for guider VanillaCFG (≥ 0; default 5) */
  cfg_scale?: number | undefined;
  /** Guidance scale of the last frame. Only for guider LinearPredictionGuider (≥ 1; default 2.5 (camera, svd), 3 (svd_xt, svd_xt_1_1), 1.5 (animatelcm_svd_xt)) */
  max_cfg_scale?: number | undefined;
  /** Guidance scale of the first frame. Only for guider LinearPredictionGuider (1–10; default 1 (camera, svd, animatelcm_svd_xt), 1.5 (svd_xt, svd_xt_1_1)) */
  min_guidance_scale?: number | undefined;
  /** Guidance only at noise levels above this sigma. Must be below guidance_sigma_max. Other levels take half the time. Only for guider LinearPredictionGuider, VanillaCFG (≥ 0) */
  guidance_sigma_min?: number | undefined;
  /** Guidance only at noise levels up to this sigma. Other levels take half the time. Only for guider LinearPredictionGuider, VanillaCFG (> 0) */
  guidance_sigma_max?: number | undefined;
  /** Steps from one whole run of the network to the next. In between, only a part of it runs, with features of the last whole run. 1 always runs all of it (1–10; default 1) */
  cache_interval?: number | undefined;
  /** Layers at the end of the network that run in every step. Only with cache_interval above 1 (1–5; default 2) */
  cache_depth?: number | undefined;
  /** Which picture of the prompt to animate; only with prompt or still_of (1–4; default 1) */
  image_index?: number | undefined;
  /** Id of an earlier task of the same API key. Animates its still again, without paying for it twice (a task’s id) */
  still_of?: string | undefined;
  /** How the still fills W×H: cover crops it, contain adds blurred borders, stretch distorts it (default cover) */
  fit?: 'cover' | 'contain' | 'stretch' | undefined;
  /** https URL that receives a signed POST when the task ends (an https URL) */
  webhook_url?: string | undefined;
  /** What the webhook is notified of: that a worker has started, its progress at most once a second, and the end. By default only the end (a list of started, progress, ended) */
  webhook_events?: Array<'started' | 'progress' | 'ended'> | undefined;
  /** Texts of your own, such as an order’s number, which the task shows and the list can be filtered by. They stay after a deletion (at most 16 texts of at most 512 characters) */
  metadata?: Record<string, string> | undefined;
}

/** Every parameter with the value that is used: one source, and only what applies to the choices. */
export type Input = {
  /** What the still shows; may end with Midjourney’s flags, such as --ar and --stylize */
  prompt?: string | undefined;
  /** Public URL of the picture to animate: jpeg, png, webp, avif, gif or tiff, at most 20 MB, 64 megapixels and 65,535 pixels a side */
  image_url?: string | undefined;
  /** Height of the frames in pixels. By default it follows from aspect_ratio, and from W if that is given */
  H?: number | undefined;
  /** Width of the frames in pixels. By default it follows from aspect_ratio, and from H if that is given */
  W?: number | undefined;
  /** Number of frames. The clip lasts T / fps seconds */
  T: number;
  /** Noise added to the still. More noise lets the clip differ more from the still. Not used by the camera */
  cond_aug: number;
  /** Random seed. The same request with the same seed gives the same clip, byte for byte */
  seed: number;
  /** Frames decoded at a time, at most T. Fewer frames need less memory but flicker more. Not used by the camera */
  decoding_t: number;
  /** Frames per second. The models were trained with 5 to 30 */
  fps: number;
  /** Amount of movement. The models were trained with values up to 255 */
  motion_bucket_id: number;
  /** Number of videos from one still, with the seeds seed, seed + 1, … Several videos also come as one grid */
  num_cols: number;
  /** Set of sampling parameters; those of the request override it. exact: the model’s own. fast: steps 10, sampler DPMPP2MSampler, discretization AlignYourStepsDiscretization, cache_interval 2, cache_depth 2. draft: the network AnimateLCM with fps 7, steps 4, sampler LCMSampler, discretization LCMDiscretization, guider IdentityGuider; only with the model svd_xt. Not used by the camera and AnimateLCM */
  speed: 'exact' | 'fast' | 'draft';
  /** Number of sampling steps. More steps take longer and may show finer detail */
  steps: number;
  /** Steps from one whole run of the network to the next. In between, only a part of it runs, with features of the last whole run. 1 always runs all of it */
  cache_interval?: number | undefined;
  /** Layers at the end of the network that run in every step. Only with cache_interval above 1 */
  cache_depth?: number | undefined;
  /** Which picture of the prompt to animate; only with prompt or still_of */
  image_index: number;
  /** Id of an earlier task of the same API key. Animates its still again, without paying for it twice */
  still_of?: string | undefined;
  /** How the still fills W×H: cover crops it, contain adds blurred borders, stretch distorts it */
  fit: 'cover' | 'contain' | 'stretch';
  /** https URL that receives a signed POST when the task ends */
  webhook_url?: string | undefined;
  /** What the webhook is notified of: that a worker has started, its progress at most once a second, and the end. By default only the end */
  webhook_events?: Array<'started' | 'progress' | 'ended'> | undefined;
  /** Until the picture is known: W, H or both follow from it */
  aspect_ratio?: 'auto' | undefined;
  /** Name of the uploaded picture’s file */
  image?: string | undefined;
} & (
  | {
      sampler: 'EulerEDMSampler' | 'HeunEDMSampler';
      /** How much noise is added back while sampling, over all steps. Only for sampler EulerEDMSampler, HeunEDMSampler */
      s_churn: number;
      /** Lowest sigma at which noise is added back. Only for sampler EulerEDMSampler, HeunEDMSampler */
      s_tmin: number;
      /** Highest sigma at which noise is added back. Only for sampler EulerEDMSampler, HeunEDMSampler */
      s_tmax: number;
      /** Scale of the noise that is added back; for the ancestral samplers at most 1. Only for sampler EulerEDMSampler, HeunEDMSampler, EulerAncestralSampler, DPMPP2SAncestralSampler, LCMSampler */
      s_noise: number;
    }
  | {
      sampler: 'EulerAncestralSampler' | 'DPMPP2SAncestralSampler';
      /** Scale of the noise that is added back; for the ancestral samplers at most 1. Only for sampler EulerEDMSampler, HeunEDMSampler, EulerAncestralSampler, DPMPP2SAncestralSampler, LCMSampler */
      s_noise: number;
      /** Share of each step that is fresh noise. Only for sampler EulerAncestralSampler, DPMPP2SAncestralSampler */
      eta: number;
    }
  | {
      sampler: 'DPMPP2MSampler';
    }
  | {
      sampler: 'LinearMultistepSampler';
      /** Order of the method: how many slopes each step uses, at most steps. Only for sampler LinearMultistepSampler */
      order: number;
    }
  | {
      sampler: 'LCMSampler';
      /** Scale of the noise that is added back; for the ancestral samplers at most 1. Only for sampler EulerEDMSampler, HeunEDMSampler, EulerAncestralSampler, DPMPP2SAncestralSampler, LCMSampler */
      s_noise: number;
    }
) &
  (
    | {
        discretization: 'EDMDiscretization';
        /** Last noise level before 0. Must be below sigma_max. Only for discretization EDMDiscretization */
        sigma_min: number;
        /** First noise level. Only for discretization EDMDiscretization */
        sigma_max: number;
        /** How much denser the steps are at low noise. Only for discretization EDMDiscretization */
        rho: number;
      }
    | {
        discretization: 'LegacyDDPMDiscretization' | 'AlignYourStepsDiscretization' | 'LCMDiscretization';
      }
  ) &
  (
    | {
        guider: 'LinearPredictionGuider';
        /** Guidance scale of the last frame. Only for guider LinearPredictionGuider */
        max_cfg_scale: number;
        /** Guidance scale of the first frame. Only for guider LinearPredictionGuider */
        min_guidance_scale: number;
        /** Guidance only at noise levels above this sigma. Must be below guidance_sigma_max. Other levels take half the time. Only for guider LinearPredictionGuider, VanillaCFG */
        guidance_sigma_min?: number | undefined;
        /** Guidance only at noise levels up to this sigma. Other levels take half the time. Only for guider LinearPredictionGuider, VanillaCFG */
        guidance_sigma_max?: number | undefined;
      }
    | {
        guider: 'VanillaCFG';
        /** Guidance scale of every frame. Only for guider VanillaCFG */
        cfg_scale: number;
        /** Guidance only at noise levels above this sigma. Must be below guidance_sigma_max. Other levels take half the time. Only for guider LinearPredictionGuider, VanillaCFG */
        guidance_sigma_min?: number | undefined;
        /** Guidance only at noise levels up to this sigma. Other levels take half the time. Only for guider LinearPredictionGuider, VanillaCFG */
        guidance_sigma_max?: number | undefined;
      }
    | {
        guider: 'IdentityGuider';
      }
  );

/** The models that a service may have. */
export type ModelName = 'camera' | 'svd' | 'svd_xt' | 'svd_xt_1_1' | 'animatelcm_svd_xt';

/** A task, as the service shows it. */
export interface Task {
  id: string;
  /** queued, running, then succeeded, failed or canceled */
  status: 'queued' | 'running' | 'succeeded' | 'failed' | 'canceled';
  /** Current stage of a running task */
  stage?: 'still' | 'loading' | 'sampling' | 'decoding' | 'encoding' | 'uploading';
  /** Sampling steps or frames that the stage has done */
  step?: number;
  /** Sampling steps or frames that the stage has in all */
  steps?: number;
  /** Never decreases */
  progress: number;
  /** Place of a queued task: 1 is next */
  queue_position?: number;
  /** Estimated seconds until the end */
  eta_seconds?: number;
  created_at: string;
  started_at?: string;
  finished_at?: string;
  model: ModelName;
  /** Every parameter, with the values that are used. Until the picture is known, it may have aspect_ratio auto instead of W, H or both */
  input: Input;
  /** Parameters that are ignored or unusual */
  warnings: Array<{
    field: string;
    message: string;
  }>;
  /** As the request had it */
  metadata?: Record<string, string>;
  /** The picture that is animated, as PNG */
  still?: {
    /** Expires at links_expire_at */
    link: string;
    content_type: string;
    /** Name to save the file under: ASCII letters, digits, hyphens, underscores and dots */
    filename: string;
    /** JPEG of at most 1024 pixels in width and height */
    preview?: {
      /** Expires at links_expire_at */
      link: string;
      content_type: string;
      /** Name to save the file under: ASCII letters, digits, hyphens, underscores and dots */
      filename: string;
    };
  };
  /** Pictures that the image provider drew of the prompt: image_index with still_of may be 1 to this */
  pictures?: number;
  videos?: Array<{
    /** Expires at links_expire_at */
    link: string;
    content_type: string;
    /** Name to save the file under: ASCII letters, digits, hyphens, underscores and dots */
    filename: string;
    /** The same file, which browsers save as filename instead of playing it */
    download_link: string;
    width: number;
    height: number;
    frames: number;
    fps: number;
    seconds: number;
    bytes: number;
    /** Hash of the file, in hexadecimal */
    sha256: string;
    seed: number;
    /** JPEG of the first frame */
    poster?: {
      /** Expires at links_expire_at */
      link: string;
      content_type: string;
      /** Name to save the file under: ASCII letters, digits, hyphens, underscores and dots */
      filename: string;
    };
    /** Animated WebP of at most 480 pixels in width and height, and 400 kB */
    preview?: {
      /** Expires at links_expire_at */
      link: string;
      content_type: string;
      /** Name to save the file under: ASCII letters, digits, hyphens, underscores and dots */
      filename: string;
    };
  }>;
  /** Several videos in one, in rows and columns */
  grid?: {
    /** Expires at links_expire_at */
    link: string;
    content_type: string;
    /** Name to save the file under: ASCII letters, digits, hyphens, underscores and dots */
    filename: string;
    /** The same file, which browsers save as filename instead of playing it */
    download_link: string;
    width: number;
    height: number;
    frames: number;
    fps: number;
    seconds: number;
    bytes: number;
    /** Hash of the file, in hexadecimal */
    sha256: string;
  };
  /** A page that plays the clip, without an API key */
  share_link?: string;
  links_expire_at?: string;
  /** When the task’s files and prompt were deleted */
  expired_at?: string;
  /** Why the task failed */
  error?: {
    code:
      | 'invalid_input'
      | 'banned_prompt'
      | 'no_bridge'
      | 'no_credit'
      | 'queue_full'
      | 'rate_limited'
      | 'image_unavailable'
      | 'image_rejected'
      | 'upstream_timeout'
      | 'upstream_error'
      | 'out_of_memory'
      | 'storage_error'
      | 'canceled'
      | 'timeout'
      | 'expired'
      | 'lost'
      | 'internal';
    message: string;
    retryable: boolean;
  };
  cost?: {
    /** In millionths of the currency */
    amount: number;
    currency: string;
    /** Seconds of sampling and decoding */
    gpu_seconds: number;
    /** Pictures that a bridge made */
    stills: number;
  };
  /** What the networks of a finished clip ran on; the camera has none */
  device?: 'cpu' | 'cuda' | 'webgpu';
  urls: {
    /** GET: the task */
    self: string;
    /** GET: its events */
    events: string;
    /** POST: cancels it; 409 after its end */
    cancel: string;
    /** DELETE: deletes its files and prompt; 409 before its end */
    delete: string;
    /** The task on the web page */
    web: string;
  };
}

/** Every parameter with the value that would be used, and the most that the task can cost. */
export interface DryRun {
  /** Every parameter, with the values that are used. Until the picture is known, it may have aspect_ratio auto instead of W, H or both */
  input: Input;
  warnings: Array<{
    field: string;
    message: string;
  }>;
  cost_estimate: {
    /** In millionths of the currency */
    amount: number;
    currency: string;
    /** Seconds of sampling and decoding */
    gpu_seconds: number;
    /** What sampling and decoding probably take, from the latest results */
    expected_seconds?: number;
  };
}

/** The account of an API key. */
export interface Usage {
  currency: string;
  /** The month of `spent`, UTC */
  month: string;
  /** Budget of a month; null: unlimited */
  budget: number | null;
  /** In millionths of the currency */
  spent: number;
  /** Reserved for active tasks */
  reserved: number;
  /** What is left of the budget */
  left: number | null;
  open_tasks: number;
  limits: {
    /** null: unlimited */
    open_tasks: number | null;
    /** null: unlimited */
    submissions_per_minute: number | null;
    /** null: unlimited */
    requests_per_minute: number | null;
  };
  days: Array<{
    day: string;
    tasks: number;
    succeeded: number;
    failed: number;
    canceled: number;
    stills: number;
    gpu_seconds: number;
    /** In millionths of the currency */
    amount: number;
  }>;
}

/** What the service refuses. */
export type ProblemCode =
  | 'unreadable'
  | 'unauthorized'
  | 'budget_spent'
  | 'forbidden_host'
  | 'forbidden_origin'
  | 'insufficient_scope'
  | 'link_invalid'
  | 'not_found'
  | 'method_not_allowed'
  | 'ended'
  | 'not_ended'
  | 'idempotency_conflict'
  | 'too_large'
  | 'unsupported_media_type'
  | 'range_not_satisfiable'
  | 'invalid_input'
  | 'image_rejected'
  | 'no_bridge'
  | 'too_many_requests'
  | 'too_many_submissions'
  | 'too_many_open'
  | 'too_many_uploads'
  | 'uploads_full'
  | 'too_many_guesses'
  | 'internal'
  | 'unavailable';
