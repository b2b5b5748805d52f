/** The types of the client, made from the schemas of requests and responses, so that the client's package needs neither. */
import { isDeepStrictEqual } from 'node:util';
import { toJsonSchemaDefs } from '@valibot/to-json-schema';
import { MODELS } from '../../core/job.ts';
import { parameterRows, requestProperties } from '../../core/parameter-schema.ts';
import { BELONGS_TO, type Limits } from '../../core/parameters.ts';
import { PROBLEMS } from '../../core/problems.ts';
import { RESPONSES } from '../../core/responses.ts';

interface Schema {
  type?: string;
  description?: string;
  properties?: Record<string, Schema>;
  required?: string[];
  items?: Schema;
  enum?: string[];
  anyOf?: Schema[];
  additionalProperties?: Schema | boolean;
}
interface Field {
  name: string;
  type: string;
  isOptional?: boolean;
  description?: string | undefined;
}

/** Fields whose schema does not say more than `object` or `string`, with their types. */
const OPAQUE: Record<string, string> = { input: 'Input', model: 'ModelName' };
/** What an input may lack although the parameter applies to its choices. A test of types fails if a name is missing here. */
const OPTIONAL = [
  ...['prompt', 'image_url', 'still_of', 'webhook_url', 'webhook_events', 'H', 'W'],
  ...['cache_interval', 'cache_depth', 'guidance_sigma_min', 'guidance_sigma_max'],
];
const CHOICES = ['sampler', 'discretization', 'guider'] as const;

const literals = (values: readonly string[]) => values.map((value) => `'${value}'`).join(' | ');

const objectType = (fields: Field[]) =>
  `{\n${fields
    .map(({ name, type, isOptional, description }) => {
      const comment = description ? `/** ${description} */\n` : '';
      return `${comment}${name}${isOptional ? '?' : ''}: ${type};\n`;
    })
    .join('')}}`;

/** @throws Error the schema is of a kind that no response has */
function typeOf({ type, properties, required = [], items, enum: values, anyOf, additionalProperties }: Schema): string {
  if (values) return literals(values);
  if (anyOf) return anyOf.map(typeOf).join(' | ');
  if (items) return `Array<${typeOf(items)}>`;
  if (properties)
    return objectType(
      Object.entries(properties).map(([name, schema]) => ({
        name,
        type: Object.hasOwn(OPAQUE, name) ? OPAQUE[name]! : typeOf(schema),
        isOptional: !required.includes(name),
        description: schema.description,
      })),
    );
  if (typeof additionalProperties === 'object') return `Record<string, ${typeOf(additionalProperties)}>`;
  if (type === 'integer' || type === 'number') return 'number';
  if (type === 'string' || type === 'boolean' || type === 'null') return type;
  throw new Error(`no TypeScript type for a schema of type ${type}`);
}

/** The resolved input of a task: the common parameters, and those of its sampler, discretization and guider. */
function inputType(fields: Field[], choices: Record<(typeof CHOICES)[number], string[]>): string {
  const isCommon = ({ name }: Field) =>
    !Object.hasOwn(BELONGS_TO, name) &&
    !['aspect_ratio', 'metadata'].includes(name) &&
    !(CHOICES as readonly string[]).includes(name);
  const resolved = fields.map((field) =>
    OPTIONAL.includes(field.name) ? { ...field, type: `${field.type} | undefined`, isOptional: true } : field,
  );
  const parts = CHOICES.map((choice) => {
    const fieldsOf = (value: string) => resolved.filter(({ name }) => BELONGS_TO[name]?.names.includes(value));
    const members = choices[choice].map((value) => {
      const alike = choices[choice].filter((other) => isDeepStrictEqual(fieldsOf(other), fieldsOf(value)));
      return objectType([{ name: choice, type: literals(alike) }, ...fieldsOf(value)]);
    });
    return `(${[...new Set(members)].join(' | ')})`;
  });
  const others: Field[] = [
    {
      name: 'aspect_ratio',
      type: "'auto' | undefined",
      isOptional: true,
      description: 'Until the picture is known: W, H or both follow from it',
    },
    { name: 'image', type: 'string | undefined', isOptional: true, description: 'Name of the uploaded picture’s file' },
  ];
  return [objectType([...resolved.filter(isCommon), ...others]), ...parts].join(' & ');
}

/** @returns the text of client/types.ts, unformatted. Ranges and defaults in comments are those of a service with these limits. */
export function clientTypes(limits: Limits): string {
  const properties = requestProperties({ model: 'svd_xt', limits, bridge: undefined }); // has every speed
  const fields = parameterRows(limits).map(({ name, range, defaultValue, description }) => {
    const { type, enum: values, items, additionalProperties } = properties[name]!;
    const allowed = [!values && range, defaultValue && `default ${defaultValue}`].filter(Boolean).join('; ');
    return {
      name,
      type: typeOf({
        type,
        ...(values && { enum: values }),
        ...(items && { items }),
        ...(additionalProperties && { additionalProperties }),
      }),
      description,
      allowed,
    };
  });
  const { Task, DryRun, Usage } = toJsonSchemaDefs(RESPONSES, { errorMode: 'ignore' }) as Record<string, Schema>;
  const [sampler, discretization, guider] = CHOICES.map((name) => properties[name]!.enum!);
  const declarations: [comment: string, declaration: string][] = [
    [
      'The parameters of a request; a service may have other limits',
      `interface RequestParameters ${objectType(
        fields.map(({ name, type, description, allowed }) => ({
          name,
          type: `${type} | undefined`,
          isOptional: true,
          description: `${description} (${allowed})`,
        })),
      )}`,
    ],
    [
      'Every parameter with the value that is used: one source, and only what applies to the choices',
      `type Input = ${inputType(fields, { sampler: sampler!, discretization: discretization!, guider: guider! })};`,
    ],
    ['The models that a service may have', `type ModelName = ${literals(MODELS)};`],
    ['A task, as the service shows it', `interface Task ${typeOf(Task!)}`],
    [
      'Every parameter with the value that would be used, and the most that the task can cost',
      `interface DryRun ${typeOf(DryRun!)}`,
    ],
    ['The account of an API key', `interface Usage ${typeOf(Usage!)}`],
    ['What the service refuses', `type ProblemCode = ${literals(Object.keys(PROBLEMS))};`],
  ];
  return [
    '// `npm run docs` writes this file from the schemas in core/.\n',
    ...declarations.map(([comment, declaration]) => `/** ${comment}. */\nexport ${declaration}\n`),
  ].join('\n');
}
