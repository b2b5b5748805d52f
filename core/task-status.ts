const ACTIVE_STATUSES = ['queued', 'running'] as const;
export const ENDED_STATUSES = ['succeeded', 'failed', 'canceled'] as const;
export const STATUSES = [...ACTIVE_STATUSES, ...ENDED_STATUSES] as const;
export type TaskStatus = (typeof STATUSES)[number];
export const isActive = (status: TaskStatus) => (ACTIVE_STATUSES as readonly string[]).includes(status);
