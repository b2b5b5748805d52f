import { expect, test } from 'vitest';
import { type Action, defineCommand, UsageError, type Values } from './command.ts';

const OPTIONS = { name: { value: 'NAME', help: 'who is greeted,\nby name' }, loud: { help: 'in capitals' } } as const;

const hello: Action = {
  help: 'greets',
  args: ['WORD'],
  options: OPTIONS,
  async run({ out }, { name = 'you', loud }: Values<typeof OPTIONS>, word) {
    if (word === 'fail') throw new Error('the greeting failed');
    if (word === 'wrong') throw new UsageError('WORD must be hello');
    out.write(`${word} ${loud ? name.toUpperCase() : name}\n`);
    return undefined;
  },
};
const bye: Action = { help: 'takes leave', run: async () => 3 };

async function run(actions: Record<string, Action>, ...args: string[]) {
  let [out, err] = ['', ''];
  const io = {
    env: {},
    out: { write: (text: string) => (out += text) },
    err: { write: (text: string) => (err += text) },
  };
  const status = await defineCommand('npm run greet', actions, 'Notes.')(args, io);
  return { status, out, err };
}

test('an action gets its options and arguments, in any order after its name', async () => {
  const done = { status: 0, out: 'hi ANNA\n', err: '' };
  expect(await run({ hello, bye }, 'hello', 'hi', '--loud', '--name', 'Anna')).toEqual(done);
  expect(await run({ hello, bye }, 'hello', '--name=Anna', '--loud', 'hi')).toEqual(done);
  expect(await run({ '': hello, bye: { ...bye } }, '--loud')).toMatchObject({ err: 'npm run greet: needs WORD\n' });
});

test('the action named by the empty text runs where no action is named', async () => {
  expect(await run({ '': hello }, 'hi')).toEqual({ status: 0, out: 'hi you\n', err: '' });
  expect(await run({ '': bye, hello })).toMatchObject({ status: 3 });
});

test('the exit status is what the action returns, and 1 where it fails', async () => {
  expect(await run({ hello, bye }, 'bye')).toEqual({ status: 3, out: '', err: '' });
  expect(await run({ hello }, 'hello', 'fail')).toEqual({ status: 1, out: '', err: 'the greeting failed\n' });
});

test.each([
  [[], 'no action is given; use one of hello, bye'],
  [['constructor'], 'constructor: unknown action; use one of hello, bye'],
  [['hello'], 'hello: needs WORD'],
  [['hello', 'hi', 'there'], 'hello: takes only WORD'],
  [['bye', 'now'], 'bye: takes no arguments'],
  [['hello', 'wrong'], 'WORD must be hello'],
  [['bye', '--loud'], "Unknown option '--loud'; allowed are --help"],
  [['hello', 'hi', '--nam', 'x'], "Unknown option '--nam'; allowed are --name, --loud, --help"],
  [['hello', 'hi', '--name'], "Option '--name <value>' argument missing; allowed are --name, --loud, --help"],
  [['hello', 'hi', '--loud=1'], "Option '--loud' does not take an argument; allowed are --name, --loud, --help"],
])('%j is wrong usage, with status 2 and one line', async (args, line) => {
  expect(await run({ hello, bye }, ...args)).toEqual({ status: 2, out: '', err: `${line}\n` });
});

test('--help prints the usage, with shared options once', async () => {
  expect(await run({ hello, bye, again: { ...bye, options: OPTIONS } }, '--help')).toEqual({
    status: 0,
    out: `Usage: npm run greet -- [ACTION] [OPTION …]

  hello WORD     greets
    --name NAME  who is greeted,
                 by name
    --loud       in capitals
  bye            takes leave
  again          takes leave

Notes.
`,
    err: '',
  });
});
