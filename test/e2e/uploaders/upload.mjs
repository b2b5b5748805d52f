// Uploads a picture with a library of Node's. Usage: upload.mjs fetch|undici URL FILE; prints the response's body.
import { readFile } from 'node:fs/promises';
import * as undici from 'undici';

const [library, url, path] = process.argv.slice(2);
const { fetch, FormData } = library === 'undici' ? undici : globalThis;
const body = new FormData();
body.set('T', '1');
body.set('image', new Blob([await readFile(path)]), 'my "best" café photo.png');
console.log(await (await fetch(url, { method: 'POST', body })).text());
