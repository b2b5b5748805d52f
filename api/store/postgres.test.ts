import { once } from 'node:events';
import { type AddressInfo, connect, createServer, type Socket } from 'node:net';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { hasPostgres, type LocalPostgres, skipped, startPostgres } from '../../infra/simulators/postgres-server.ts';
import { insertTask, newTask } from '../../test/support/test-store.ts';
import { migrations } from './schema.ts';
import { openStore } from './store.ts';

describe.skipIf(!hasPostgres)(`PostgreSQL${skipped}`, () => {
  let postgres: LocalPostgres;
  beforeAll(async () => {
    postgres = await startPostgres();
  });
  afterAll(() => postgres?.stop());

  test('processes that start at the same time on an empty database create its tables once', async () => {
    const { name, url } = await postgres.database();
    const stores = await Promise.all(Array.from({ length: 6 }, () => openStore(url)));
    expect(await postgres.query(name, 'select name from kysely_migration order by 1')).toBe(
      Object.keys(migrations).join('\n'),
    );
    await Promise.all(stores.map((store) => store.close()));
  });

  test('leases and due times go by the database’s clock', async () => {
    const { name, url } = await postgres.database();
    const store = await openStore(url);
    const realNow = Date.now;
    Date.now = () => realNow() + 3_600_000; // a process whose clock is an hour ahead
    try {
      const task = newTask();
      await insertTask(store, task);
      expect(await store.claimWaiting({ lease: 60_000, limit: 1, free: 9, share: 1 })).toHaveLength(1);
      const left = 'leased_until - extract(epoch from now()) * 1000';
      expect(await postgres.query(name, `select ${left} between 50000 and 60000 from tasks`)).toBe('t');
      expect((await store.nextDue()).waiting).toBeLessThanOrEqual(60_000);
    } finally {
      Date.now = realNow;
      await store.close();
    }
  });

  test('a connection killed during a statement is an error, one killed while idle is not; both are replaced', async () => {
    const { name, url } = await postgres.database();
    const store = await openStore(url);
    const others = `from pg_stat_activity where datname = '${name}' and pid <> pg_backend_pid()`;
    const task = newTask();
    await insertTask(store, task);

    // A transaction elsewhere holds the row, so the change hangs until its connection is killed.
    const blocker = postgres
      .query(name, `begin; update tasks set step = 1; select pg_sleep(60); commit`)
      .catch(() => 0);
    const until = async (count: number, condition: string) => {
      while ((await postgres.query(name, `select count(*) ${others} and ${condition}`)) !== String(count));
    };
    const kill = async (condition: string) => {
      await postgres.query(name, `select count(pg_terminate_backend(pid)) ${others} and ${condition}`);
      await until(0, condition);
      await new Promise((resolve) => setImmediate(resolve)); // what the server has said until then has been read
    };
    await until(1, `wait_event = 'PgSleep'`);
    const change = store.update((await store.get(task.id))!, { step: 2 }).then(
      () => 'changed',
      (error: Error) => error.message,
    );
    await until(1, `wait_event_type = 'Lock'`);
    await kill(`wait_event_type = 'Lock'`); // before who holds the row: else the change may still be made
    await kill('true');
    expect(await change).toMatch(/terminating connection/);
    await blocker;
    expect(await store.update((await store.get(task.id))!, { step: 3 })).toMatchObject({ step: 3, version: 2 });

    await kill('true');
    expect(await store.get(task.id)).toMatchObject({ step: 3 });
    await store.close();
  });

  test('a connection that breaks or stalls during a statement is an error, and is replaced', async () => {
    const { url } = await postgres.database();
    const sockets: Socket[] = [];
    const line = createServer((socket) => {
      const onward = connect(postgres.port, '127.0.0.1');
      sockets.push(socket, onward);
      for (const end of [socket, onward]) end.on('error', () => undefined);
      socket.pipe(onward).pipe(socket);
    }).listen(0, '127.0.0.1');
    await once(line, 'listening');
    const by = new URL(url);
    by.port = String((line.address() as AddressInfo).port);
    const store = await openStore(by.href, { queryTimeout: 1000 });
    const task = newTask();
    await insertTask(store, task);
    const silence = () => sockets.splice(0).map((socket) => socket.unpipe().pause()); // those to come are not silent
    const silent = silence();
    const asked = expect(store.get(task.id)).rejects.toThrow(/ECONNRESET|terminated/);
    for (const socket of silent) socket.resetAndDestroy();
    await asked;
    expect(await store.get(task.id)).toMatchObject({ id: task.id });
    silent.push(...silence());
    await expect(store.get(task.id)).rejects.toThrow(/timeout/);
    expect(await store.get(task.id)).toMatchObject({ id: task.id });
    await store.close();
    for (const socket of [...silent, ...sockets]) socket.destroy();
    line.close();
  });

  test('an error at the start is one line without the password', async () => {
    const { name, url } = await postgres.database();
    const gone = new URL(url);
    gone.port = '1';
    gone.password = 'secret';
    await expect(openStore(gone.href)).rejects.toThrow(/^DATABASE_URL: PostgreSQL can't be used: connect ECONNREFUSED/);
    await expect(openStore(gone.href)).rejects.not.toThrow(/secret/);
    await expect(openStore(`${url}x`)).rejects.toThrow(`database "${name}x" does not exist`);
    await postgres.query('postgres', `create database latin template template0 encoding 'LATIN1' locale 'C'`);
    await expect(openStore(url.replace(name, 'latin'))).rejects.toThrow(/must be in UTF8, this one is in LATIN1/);
  });
});
