// The lab model that comes with the page, its sample sentences and the recipe they are run with.
import type { Recipe } from './bindings/Recipe';
import type { Role } from './bindings/Role';

async function file(path: string, name = path.split('/').at(-1) ?? path): Promise<File> {
  const response = await fetch(`./lab/${path}`);
  if (!response.ok) throw new Error(`lab/${path}: ${response.status} ${response.statusText}`);
  return new File([await response.blob()], name);
}

/** The weights are named for what they are: page and record show it. */
export const modelFiles = () =>
  Promise.all([file('config.json'), file('tokenizer.json'), file('model.safetensors', 'lab-model.safetensors')]);

const samples: [Role, string][] = [
  ['source_train', 'data/source-train.csv'],
  ['source_test', 'data/source-test.csv'],
  ['target_train', 'data/sister-train.csv'],
  ['target_test', 'data/sister-test.csv'],
];

export const sampleTables = () => Promise.all(samples.map(async ([role, path]): Promise<[Role, File]> => [role, await file(path)]));

/** The settings that suit the lab model; what they leave out is the default. */
export const recipe = async (): Promise<Partial<Recipe>> => JSON.parse(await (await file('recipe.json')).text());
