// The page /docs/api/reference: Swagger UI over the service's own document, in the page's colours.
const dark = matchMedia('(prefers-color-scheme: dark)');
const paint = () => document.documentElement.classList.toggle('dark-mode', dark.matches);
dark.addEventListener('change', paint);
paint();

fetch('/openapi.json')
  .then((response) => response.json())
  .then((spec) =>
    globalThis.SwaggerUIBundle({
      spec: { ...spec, servers: [{ url: location.origin }] }, // the page's policy allows no other origin
      dom_id: '#api',
      deepLinking: true,
      defaultModelsExpandDepth: 0,
      validatorUrl: null,
    }),
  );
