import { expect, test } from 'vitest';
import { createSerializers } from './log.ts';

const environment = {
  MIDJOURNEY_API_KEY: 'first-bridge-key, second-bridge-key',
  BUCKET_SECRET_ACCESS_KEY: 'bucket+secret/value',
  HF_TOKEN: 'hf_token',
  TOKENIZERS_PARALLELISM: 'false',
  MODEL: 'camera',
};

/** What the log contains of an error with this message. */
function logged(message: string, prompt?: string): string {
  const cause = new Error(message);
  const { stack, ...rest } = createSerializers(environment, prompt).error(new Error('it failed', { cause })) as {
    message: string;
    stack: string;
  };
  expect(stack.match(/^ +at .+:\d+:\d+\)?$/gm)!.length).toBeGreaterThan(2);
  expect(stack).toContain('log.test.ts');
  expect(stack.replace(/\n +at .*/g, '')).toBe(`Error: ${rest.message.replace(': ', '\ncaused by: Error: ')}`);
  return rest.message.replace('it failed: ', '');
}

test.each([
  ['the key first-bridge-key is wrong, second-bridge-key too', 'the key … is wrong, … too'],
  ['bucket+secret/value and hf_token of camera: false', '… and … of camera: false'],
  ['i2v_AbC-123_x and whsec_AAAA+/BB== are ours', 'i2v_… and whsec_… are ours'],
  ['GET "https://a.example:8443/p/q.png?sig=1": 403', 'GET "https://a.example:8443/…": 403'],
  ['http:\\/\\/a.example\\/callback\\/token', 'http://a.example/…'],
  ['postgres://user:password@db.example/tasks is away', 'postgres://db.example/… is away'],
  ['at https://a.example, twice', 'at https://a.example, twice'],
])('a key or link in an error is not logged: %s', (message, expected) => {
  expect(logged(message)).toBe(expected);
});

test.each([
  ['“A Red FOX” is banned in: a red fox ju…', '“A … …” is banned in: a … … ju…'],
  ['no such model', 'no such model'],
  ['违规词 狐狸！', '违规词 ……！'],
])('the words of a job’s prompt are not logged: %s', (message, expected) => {
  expect(logged(message, 'a red fox jumps, 狐狸')).toBe(expected);
});

test('text that JSON.parse could not read is not logged', () => {
  for (const text of ['a red fox', '{"prompt": "a red fox"', '{"prompt": "a red\nfox"}', '{"prompt": a red fox}']) {
    const error = (() => {
      try {
        return JSON.parse(text);
      } catch (error) {
        return error;
      }
    })();
    const { message, stack } = createSerializers({}).error(error) as { message: string; stack: string };
    expect(`${message} ${stack}`).not.toMatch(/red|fox/);
  }
});

test('a long message is cut, and the longest prompt costs little', () => {
  const words = Array.from({ length: 1e6 }, (_, i) => i.toString(36).padStart(5, '0')).join(' ');
  const { message: cut } = createSerializers({}, words).error(new Error(words)) as { message: string };
  expect(cut.length).toBeLessThanOrEqual(10_000);
  const { message } = createSerializers({}).error(new Error('"'.repeat(1e6))) as { message: string };
  expect(message.length).toBeLessThanOrEqual(10_000);
});
