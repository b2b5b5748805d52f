/** The tables of docs/configuration.md, and .env.example. */
import { API_VARIABLES } from '../../api/config.ts';
import { VARIABLES, type Variable } from '../../core/variables.ts';
import { WORKER_VARIABLES } from '../../handler/worker.ts';
import { DEPLOY_VARIABLES } from '../deploy/deploy.ts';
import { BUCKET_VARIABLES } from './bucket.ts';
import { HUB_VARIABLES } from './hub-client.ts';

/** The part of a valibot schema that says which texts are allowed. */
interface Schema {
  type?: string;
  default?: unknown;
  options?: readonly string[];
  requirement?: unknown;
  pipe?: readonly Schema[];
  wrapped?: Schema;
}

/** The schemas by the program that uses them. */
export const SCHEMAS = {
  API: API_VARIABLES,
  worker: WORKER_VARIABLES,
  deploy: DEPLOY_VARIABLES,
  bucket: BUCKET_VARIABLES,
  models: HUB_VARIABLES,
};
const ALL: Record<string, Schema> = Object.assign({}, ...Object.values(SCHEMAS).reverse());

export interface Row extends Variable {
  group: string;
  name: string;
  default: string;
  allowed: string;
}

/** Every variable. `default` and `allowed` are empty if neither its row nor its schema says anything. */
export const ROWS: Row[] = Object.entries(VARIABLES).flatMap(([group, variables]) =>
  Object.entries<Variable>(variables).map(([name, row]) => {
    const fallback = ALL[name]?.default;
    const example = row.example ?? (typeof fallback === 'string' ? fallback : undefined);
    return {
      group,
      name,
      ...row,
      ...(example !== undefined && { example }),
      default: row.default ?? (fallback ? `\`${fallback}\`` : ''),
      allowed: row.allowed ?? allowedBy(ALL[name]),
    };
  }),
);

function allowedBy(schema: Schema | undefined): string {
  if (!schema) return '';
  const nodes = flatten(schema);
  const find = (type: string) => nodes.find((node) => node.type === type);
  const options = find('picklist')?.options;
  if (options) return options.map((option) => `\`${option}\``).join(', ');
  const [min, max] = [find('min_value'), find('max_value')];
  if (min && max) return `${min.requirement}–${max.requirement}`;
  return find('url') ? 'an http or https URL' : '';
}

function flatten(schema: Schema): Schema[] {
  const parts = [...(schema.pipe ?? []), ...(schema.wrapped ? [schema.wrapped] : [])];
  return [schema, ...parts.flatMap(flatten)];
}

export const GROUPS = Object.keys(VARIABLES);

/** The cells of a group's table. */
export const tableRows = (group: string): string[][] =>
  ROWS.filter((row) => row.group === group).map((row) => [
    `\`${row.name}\`${row.isCommon ? ' ★' : ''}`,
    row.default || '–',
    row.allowed,
    row.by.join(', '),
    row.text,
  ]);

export const HEAD = ['variable', 'default', 'allowed', 'read by', 'meaning'];

export function envExample(): string {
  const groups = GROUPS.map((group) => {
    const rows = ROWS.filter((row) => row.group === group && row.example !== undefined);
    const lines = rows.map(({ name, example }) => `# ${name}=${example}`);
    return lines.length > 0 ? `\n## ${group}\n${lines.join('\n')}\n` : '';
  });
  return `# Copy this file to .env and uncomment what you need; everything is optional. docs/configuration.md explains each variable.
# \`npm run docs\` writes this file.
${groups.join('')}`;
}
