import { describe, expect, test } from 'vitest';
import { InvalidRequest } from './invalid-request.ts';
import { addAspectRatio, toBridgePrompt } from './midjourney-prompt.ts';
import { parseRequest } from './request.ts';

const context = { limits: { maxFrames: 100, maxFps: 120 }, model: 'camera', hasImage: false, seed: 1 } as const;

/** The validation message for a prompt. */
function errorOf(prompt: string): string | undefined {
  try {
    parseRequest({ prompt }, context);
    return undefined;
  } catch (error) {
    expect(error).toBeInstanceOf(InvalidRequest);
    const { errors } = error as InvalidRequest;
    expect(errors.map(({ field }) => field)).toEqual(['prompt']);
    return errors[0]!.message;
  }
}

describe('refused, and the message names what is allowed', () => {
  test.each([
    ['a cat --repeat 4', '--repeat'],
    ['a cat --r 4', '--r'],
    ['a cat --r4', '--r'],
    ['a cat --r=4', '--r'],
    ['a cat --R 40', '--r'],
    ['a cat —r 4', '--r'],
    ['a cat —repeat 4', '--repeat'],
    ['a cat –repeat 4', '--repeat'],
    ['a cat ⸺fast', '--fast'],
    ['--turbo a cat', '--turbo'],
    ['—turbo a cat', '--turbo'],
    ['a cat --v 7 --fast --ar 3:2', '--fast'],
    ['a cat\n--relax', '--relax'],
    ['a cat\t--RELAX', '--relax'],
    ['a cat--fast', '--fast'],
    ['a cat ---fast', '--fast'],
    ['a cat －－fast', '--fast'],
    ['a cat −−fast', '--fast'],
    ['a cat -\u200b-fast', '--fast'],
    ['a cat --fa\u00adst', '--fast'],
    ['a cat --video', '--video'],
    ['a cat --motion high', '--motion'],
    ['a cat --loop', '--loop'],
    ['a cat --bs 4', '--bs'],
    ['a cat --end https://example.com/end.png', '--end'],
  ])('%j', (prompt, flag) => {
    expect(errorOf(prompt)).toMatch(new RegExp(`^must not contain ${flag} \\(.*\\); .* allowed, such as --ar`));
  });

  test.each([
    'a {red, green} cat',
    'a {red} cat',
    '{a, b}',
    'a cat --ar {1:1, 3:2}',
    'a {red, {dark, light} blue} cat',
    'a {\nred,\ngreen} cat',
    'a \\\\{red, green} cat',
    'a {red, green\\} blue} cat',
  ])('%j', (prompt) => {
    expect(errorOf(prompt)).toMatch(/^must not contain \{permutations, in braces\}; write \( \)/);
  });
});

/** Accepted prompts, and what the bridge gets. */
describe('accepted', () => {
  test.each([
    ['a cat', 'a cat --ar 2:1'],
    ['a cat --ar 3:2', 'a cat --ar 3:2'],
    ['a cat —ar 3:2', 'a cat —ar 3:2'],
    ['a cat --raw --v 7', 'a cat --raw --v 7 --ar 2:1'],
    ['a cat --no fast cars', 'a cat --no fast cars --ar 2:1'],
    ['a cat --no dogs --relief', 'a cat --no dogs --relief --ar 2:1'],
    ['fast cars, a video of a loop', 'fast cars, a video of a loop --ar 2:1'],
    ['a fast-relax spa', 'a fast-relax spa --ar 2:1'],
    ['a cat - fast and red', 'a cat - fast and red --ar 2:1'],
    ['a cat — fast and red — at sea', 'a cat — fast and red — at sea --ar 2:1'],
    ['the car—fast and red—raced', 'the car — fast and red—raced --ar 2:1'],
    ['城市——快', '城市——快 --ar 2:1'],
    ['a \\{red, green\\} cat', 'a (red, green) cat --ar 2:1'],
    ['a brace { alone', 'a brace { alone --ar 2:1'],
    ['https://example.com/cat.png in the snow', 'example.com/cat.png in the snow --ar 2:1'],
    ['HTTP://example.com/cat.png', 'example.com/cat.png --ar 2:1'],
    ['<https://s.mj.run/x> https://a.example/b.jpg a cat', '<s.mj.run/x> a.example/b.jpg a cat --ar 2:1'],
    ['a cat, https://example.com/cat.png and snow', 'a cat, example.com/cat.png and snow --ar 2:1'],
    ['hthttps://tps://example.com/cat.png', 'example.com/cat.png --ar 2:1'],
    ['https:/https:///example.com/cat.png', 'https:/example.com/cat.png --ar 2:1'],
    ['https://https://example.com', 'example.com --ar 2:1'],
    ['ftp://example.com/cat.png', 'example.com/cat.png --ar 2:1'],
    ['a cat --sref https://example.com/style.png', 'a cat --sref https://example.com/style.png --ar 2:1'],
    ['https://example.com/cat.png --v 7', 'example.com/cat.png --v 7 --ar 2:1'],
  ])('%j', (prompt, sent) => {
    expect(errorOf(prompt)).toBeUndefined();
    expect(toBridgePrompt(prompt, 1024, 512)).toBe(sent);
  });

  test('an escaped prompt has no forbidden flag, permutation or URL', () => {
    for (const prompt of ['x—turbo', 'x\\{a, b\\}', 'x https:/http:////y']) {
      const sent = toBridgePrompt(prompt, 64, 64);
      expect(errorOf(sent)).toBeUndefined();
      expect(sent).not.toMatch(/:\/\/|\{|—turbo/);
    }
  });

  test('long and unusual prompts are checked quickly', () => {
    const start = performance.now();
    for (const piece of ['{', '\\{', 'a', '-', '—', 'a:/', 'http://', '{\\', ' --a']) {
      const prompt = piece.repeat(4000 / piece.length);
      errorOf(prompt);
      toBridgePrompt(prompt, 64, 64);
    }
    expect(performance.now() - start).toBeLessThan(3000);
  });
});

test.each([
  ['a lighthouse', 1024, 576, 'a lighthouse --ar 16:9'],
  ['a lighthouse', 512, 512, 'a lighthouse --ar 1:1'],
  ['a lighthouse', 576, 1024, 'a lighthouse --ar 9:16'],
  ['a lighthouse --v 6', 512, 320, 'a lighthouse --v 6 --ar 8:5'],
  ['a lighthouse --ar 3:2', 512, 512, 'a lighthouse --ar 3:2'],
  ['a lighthouse --AR 3:2 --v 6', 512, 512, 'a lighthouse --AR 3:2 --v 6'],
  ['a lighthouse --aspect 3:2', 512, 512, 'a lighthouse --aspect 3:2'],
  ['a lighthouse --arch', 512, 512, 'a lighthouse --arch --ar 1:1'],
  ['a car--ar 3:2', 512, 512, 'a car--ar 3:2 --ar 1:1'],
])('addAspectRatio(%j, %i, %i)', (prompt, W, H, expected) => {
  expect(addAspectRatio(prompt, W, H)).toBe(expected);
});
