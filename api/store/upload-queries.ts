/** Records of uploads that are being written: those whose task was never stored are deleted later. */
import type { Dialect } from './dialect.ts';

export function uploadQueries({ db, write }: Dialect) {
  return {
    /** Records that the upload of a task is about to be written. `insert` removes the record, in the same transaction. */
    async addUpload(task_id: string, created_at: number): Promise<void> {
      await write(db.insertInto('uploads').values({ task_id, created_at }));
    },

    /** To be called when the upload of a task that was not stored is deleted. */
    async removeUpload(task_id: string): Promise<void> {
      await write(db.deleteFrom('uploads').where('task_id', '=', task_id));
    },

    /** The ids of tasks whose upload was begun before a time, in milliseconds since 1970, and that are not stored. */
    listUploads: async (before: number): Promise<string[]> =>
      (await db.selectFrom('uploads').select('task_id').where('created_at', '<', before).execute()).map(
        ({ task_id }) => task_id,
      ),
  };
}
