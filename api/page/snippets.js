// @ts-check
// Programs that make a clip again: with curl, JavaScript and Python.

/** @import { Entry } from './source.js' */

const KEY = 'IMG2VID_API_KEY'; // variable of the environment; the key itself is never copied

/** @typedef {{ url: string, entries: Entry[], needsKey: boolean }} Request the value of a file stands for the file of its name */

/** Text in single quotes for a shell. @param {string} text */
const shellQuote = (text) => `'${text.replaceAll("'", "'\\''")}'`;

/** A JSON string is also a literal of JavaScript and of Python. */
const quote = JSON.stringify;

/** @param {Request} request */
export function curlSnippet({ url, entries, needsKey }) {
  const fields = entries.map(([name, value]) =>
    value instanceof File
      ? `-F ${shellQuote(`${name}=@${quote(value.name)}`)}`
      : `--form-string ${shellQuote(`${name}=${value}`)}`,
  );
  const authorization = needsKey ? [`-H "Authorization: Bearer $${KEY}"`] : [];
  return [`curl ${shellQuote(url)}`, "-H 'Prefer: wait=60'", ...authorization, ...fields].join(' \\\n  ');
}

/** For Node; in browsers without the file. @param {Request} request */
export function javascriptSnippet({ url, entries, needsKey }) {
  const hasFile = entries.some(([, value]) => value instanceof File);
  const fields = entries.map(([name, value]) => {
    const text = value instanceof File ? `await openAsBlob(${quote(value.name)})` : quote(value);
    return `body.set(${quote(name)}, ${text});`;
  });
  // biome-ignore lint/suspicious/noTemplateCurlyInString: the program has the template
  const authorization = needsKey ? ', Authorization: `Bearer ${process.env.KEY}`'.replace('KEY', KEY) : '';
  return `${hasFile ? "import { openAsBlob } from 'node:fs';\n\n" : ''}const body = new FormData();
${fields.join('\n')}
const response = await fetch(${quote(url)}, {
  method: 'POST',
  headers: { Prefer: 'wait=60'${authorization} },
  body,
});
console.log(await response.json());`;
}

/** @param {Request} request */
export function pythonSnippet({ url, entries, needsKey }) {
  const fields = entries.map(([name, value]) =>
    value instanceof File
      ? `        ${quote(name)}: open(${quote(value.name)}, "rb"),`
      : `        ${quote(name)}: (None, ${quote(value)}),`,
  );
  const authorization = needsKey ? `, "Authorization": "Bearer " + os.environ["${KEY}"]` : '';
  return `${needsKey ? 'import os\n' : ''}import requests

response = requests.post(
    ${quote(url)},
    headers={"Prefer": "wait=60"${authorization}},
    files={
${fields.join('\n')}
    },
)
print(response.text)`;
}
