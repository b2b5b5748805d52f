/** For tests: URLs that must not be fetched, because they lead to private addresses, other services or other protocols. */

/** Separated by spaces. */
const HOSTS = {
  'loopback, in all its spellings': `
    127.0.0.1 127.0.0.1. 127.1 127.0.1 127.255.255.254 2130706433 0x7f000001 0x7F.0.0.1 0x7f.1 0177.0.0.1 0177.1
    017700000001 0x7f.0x0.0x0.0x1 %31%32%37.0.0.1 １２７.０.０.１ 127。0。0。1 ①②⑦.⓪.⓪.① 127.0.0.1:8080`,
  'this host, this network': `0 0.0.0.0 0x0 0.1.2.3`,
  private: `
    10.0.0.1 10.255.255.255 167772161 0xa000001 012.0.0.1 172.16.0.1 172.31.255.255 0xac.0x10.0.1 192.168.0.1
    192.168.255.255 3232235521 0300.0250.0.1`,
  'link-local, where clouds keep their metadata': `
    169.254.0.1 169.254.169.254 2852039166 0xa9fea9fe 0251.0376.0251.0376 169.254.43518`,
  'carrier NAT': `100.64.0.1 100.127.255.255`,
  'for documents, benchmarks and protocols': `
    192.0.0.1 192.0.2.1 192.88.99.1 198.18.0.1 198.19.255.255 198.51.100.1 203.0.113.1`,
  'multicast, reserved, broadcast': `224.0.0.1 239.255.255.250 240.0.0.1 255.255.255.255 0xffffffff 4294967295`,
  'IPv6: unspecified, loopback': `[::] [::1] [0:0:0:0:0:0:0:1] [0000:0000:0000:0000:0000:0000:0000:0001]`,
  'IPv4 inside of IPv6: mapped, translated, compatible, NAT64, 6to4, Teredo': `
    [::ffff:127.0.0.1] [::ffff:7f00:1] [::ffff:10.0.0.1] [::ffff:169.254.169.254] [::FFFF:0.0.0.0]
    [0:0:0:0:0:ffff:c0a8:1] [::ffff:0:127.0.0.1] [::127.0.0.1] [::a9fe:a9fe] [::10.0.0.1] [64:ff9b::127.0.0.1]
    [64:ff9b::a00:1] [64:ff9b::169.254.169.254] [64:ff9b:1::10.0.0.1] [2002:7f00:1::] [2002:a00:1::1]
    [2002:c0a8:1::] [2001::1]`,
  'link-local, site-local, unique-local': `[fe80::1] [febf::1] [fec0::1] [fc00::1] [fd00:ec2::254] [fdff:ffff::1]`,
  'multicast, discard, documents, not given out': `
    [ff02::1] [ff0e::1] [100::1] [2001:db8::1] [3fff::1] [5f00::1] [4000::1] [e000::1]`,
  'this machine’s name': `localhost localhost. LOCALHOST lOcAlHoSt:8080 ｌｏｃａｌｈｏｓｔ sub.localhost a.b.localhost.`,
};

/** Hosts of URLs that are refused without asking DNS, in every spelling that is known. */
export const refusedHosts = Object.values(HOSTS).flatMap((hosts) => hosts.trim().split(/\s+/));

const picture = (origin: string) => `${origin}/picture.png`;

/** Whole URLs, each with the code that a job for it ends with. The API refuses them all with 422. */
export const refusedUrls: { url: string; job: 'image_rejected' | 'invalid_input' }[] = [
  ...refusedHosts.map((host) => ({ url: picture(`http://${host}`), job: 'image_rejected' as const })),
  ...['127.0.0.1', '[::1]', '169.254.169.254', 'localhost'].map((host) => ({
    url: picture(`https://${host}`),
    job: 'image_rejected' as const,
  })),
  // ports of other services
  ...[0, 1, 21, 22, 23, 25, 53, 81, 110, 143, 389, 445, 465, 587, 993, 1023].map((port) => ({
    url: picture(`http://pictures.example.com:${port}`),
    job: 'image_rejected' as const,
  })),
  { url: picture('https://pictures.example.com:22'), job: 'image_rejected' },
  // backslashes, tabs and too many slashes, which the URL parser takes as browsers do
  { url: 'http:\\\\127.0.0.1\\picture.png', job: 'invalid_input' },
  { url: 'http://127.0.0.1\\@pictures.example.com/', job: 'image_rejected' },
  { url: 'http:////127.0.0.1/picture.png', job: 'image_rejected' },
  { url: 'http:127.0.0.1/picture.png', job: 'invalid_input' },
  { url: 'http://127.0.\t0.1/picture.png', job: 'image_rejected' },
  { url: 'http://127.0.0.1\n/picture.png', job: 'image_rejected' },
  { url: 'http://127.0.0.1#@pictures.example.com/', job: 'image_rejected' },
  { url: 'http://127.0.0.1?@pictures.example.com/', job: 'image_rejected' },
  // names and passwords, which are never sent
  { url: 'http://pictures.example.com@127.0.0.1/picture.png', job: 'invalid_input' },
  { url: 'http://8.8.8.8@127.0.0.1/picture.png', job: 'invalid_input' },
  { url: 'http://somebody:secret@pictures.example.com/picture.png', job: 'invalid_input' },
  { url: 'http://:secret@pictures.example.com/picture.png', job: 'invalid_input' },
  { url: 'http://127.0.0.1:80@pictures.example.com/picture.png', job: 'invalid_input' },
  { url: 'http://pictures.example.com%40127.0.0.1/picture.png', job: 'invalid_input' },
  // no URLs
  { url: 'http://[fe80::1%25eth0]/picture.png', job: 'invalid_input' },
  { url: 'http://[fe80::1%eth0]/picture.png', job: 'invalid_input' },
  { url: 'http://[127.0.0.1]/picture.png', job: 'invalid_input' },
  { url: 'http://127.0.0.1.1.1/picture.png', job: 'invalid_input' },
  { url: 'http://256.0.0.1/picture.png', job: 'invalid_input' },
  { url: 'http://0x7f.1.1.1.1/picture.png', job: 'invalid_input' },
  { url: 'http://pictures.example.com:65536/picture.png', job: 'invalid_input' },
  { url: 'http://pictures.example.com:-1/picture.png', job: 'invalid_input' },
  { url: 'http://pic tures.example.com/picture.png', job: 'invalid_input' },
  { url: 'http://', job: 'invalid_input' },
  { url: 'http://@/picture.png', job: 'invalid_input' },
  { url: '//127.0.0.1/picture.png', job: 'invalid_input' },
  { url: '/etc/hostname', job: 'invalid_input' },
  // other protocols
  ...[
    'file:///etc/hostname',
    'file://127.0.0.1/etc/hostname',
    'data:image/png;base64,iVBORw0KGgo=',
    'ftp://pictures.example.com/picture.png',
    'gopher://127.0.0.1:6379/_INFO',
    'javascript:alert(1)',
    'blob:http://127.0.0.1/1',
    'ws://127.0.0.1/',
    'unix:/var/run/docker.sock',
    'http+unix://%2Fvar%2Frun%2Fdocker.sock/info',
    'view-source:http://127.0.0.1/',
    'jar:http://127.0.0.1!/',
    ' file:///etc/hostname',
  ].map((url) => ({ url, job: 'invalid_input' as const })),
];
