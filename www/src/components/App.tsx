import { useEffect, useReducer, useState } from 'preact/hooks';
import * as builtIn from '../built-in';
import { lab, take, Refusal, type Shown } from '../lab';
import { language, languages, setLanguage, t } from '../text';
import type { ModelSummary } from '../bindings/ModelSummary';
import type { Progress } from '../bindings/Progress';
import type { Recipe } from '../bindings/Recipe';
import type { Record } from '../bindings/Record';
import type { Role } from '../bindings/Role';
import type { TablePreview } from '../bindings/TablePreview';
import { ModelStep } from './ModelStep';
import { DataStep } from './DataStep';
import { TaskStep } from './TaskStep';
import { RunStep } from './RunStep';
import { Circuit } from './Circuit';
import { Results } from './Results';
import { Warnings } from './Warnings';

export type Tables = { [role in Role]?: TablePreview };
export type Running = { testing?: true; loading?: { done: number; total: number }; progress?: Progress };

/** The message of whatever was thrown. */
export const messageOf = (error: unknown) => (error instanceof Error ? error.message : String(error));

/** What a recipe says of the tables, whatever the model. */
const taskOf = (r: Recipe) => ({
  template: r.template,
  labels: r.labels,
  words: r.words,
  source_columns: r.source_columns,
  target_columns: r.target_columns,
});

export function App() {
  const [, redraw] = useReducer((n: number) => n + 1, 0);
  const [model, setModel] = useState<ModelSummary>();
  const [tables, setTables] = useState<Tables>({});
  const [recipe, setRecipe] = useState<Recipe>();
  // The tables are the lab's own samples, which leave as soon as something of the user's comes.
  const [samples, setSamples] = useState(false);
  // One file after another: tables are not to be chosen while one is being opened.
  const [opening, setOpening] = useState(false);
  const [running, setRunning] = useState<Running>();
  const [record, setRecord] = useState<Record>();
  const [failure, setFailure] = useState<string>();

  useEffect(() => {
    const listen = (event: Shown) => {
      // Events and the run's result come by different ways: one that arrives after the end changes nothing.
      if (event.type === 'record') setRecord(event.record);
      else if (event.type === 'self_test') setRunning((now) => now && { testing: true });
      else setRunning((now) => now && (event.type === 'progress' ? { progress: event.progress } : { loading: event }));
    };
    void lab.listen(listen);
  }, []);

  const whileOpening = async (open: () => Promise<void>) => {
    setOpening(true);
    try {
      await open();
    } finally {
      setOpening(false);
    }
  };

  /** Opens the lab model, as the page does on its own at first, and its samples where no table of the user's is open. */
  const openBuiltIn = () =>
    whileOpening(async () => {
      const defaults = await take(lab.defaultRecipe());
      // The form is there, whatever comes of the rest.
      setRecipe((r) => r ?? defaults);
      const [files, settings] = await Promise.all([builtIn.modelFiles(), builtIn.recipe()]);
      const opened = await take(lab.openModel(files));
      const own = !samples && Object.values(tables).some(Boolean);
      setRecipe((r) => ({ ...defaults, ...settings, ...(own && r && taskOf(r)) }));
      setModel(opened);
      if (!own) await openSamples();
    });
  const openSamples = () =>
    whileOpening(async () => {
      for (const [role, file] of await builtIn.sampleTables()) place(role, await take(lab.readTable(role, file)));
      setSamples(true);
    });
  /** Removes the samples, but for the place that a table of the user's has taken already. */
  const closeSamples = async (taken?: Role) => {
    if (!samples) return;
    for (const role of Object.keys(tables) as Role[]) if (role !== taken) await take(lab.removeTable(role));
    setTables({});
    setSamples(false);
  };

  /** A model of the user's: the lab model's settings and samples do not suit it. */
  const openModel = (files: File[]) =>
    whileOpening(async () => {
      const opened = await take(lab.openModel(files));
      await closeSamples();
      const defaults = await take(lab.defaultRecipe());
      setRecipe((r) => ({ ...defaults, ...(r && taskOf(r)) }));
      setModel(opened);
    });

  const openTable = (role: Role, file: File) =>
    whileOpening(async () => {
      const table = await take(lab.readTable(role, file));
      await closeSamples(role);
      place(role, table);
    });
  const removeTable = async (role: Role) => {
    await take(lab.removeTable(role));
    setTables((all) => ({ ...all, [role]: undefined }));
  };
  // New labels bring their own answer words; known ones keep what the user wrote.
  const place = (role: Role, table: TablePreview) => {
    setTables((all) => ({ ...all, [role]: table }));
    if (role === 'source_train') adoptLabels(table.labels);
    if (table.mapping && (role === 'source_train' || role === 'target_train')) {
      const columns = role === 'source_train' ? 'source_columns' : 'target_columns';
      setRecipe((r) => r && { ...r, [columns]: table.mapping });
    }
  };
  const adoptLabels = (labels: string[]) =>
    setRecipe((r) => {
      if (!r || labels.length < 2) return r;
      const word = (label: string) => r.words[r.labels.indexOf(label)] ?? ` ${label}`;
      return { ...r, labels, words: labels.map(word) };
    });

  const run = async (engine: 'gpu' | 'cpu', gpuBytes: number) => {
    if (!recipe) return;
    setFailure(undefined);
    setRecord(undefined);
    setRunning({});
    try {
      setRecord(await take(lab.run(recipe, engine, gpuBytes)));
    } catch (error) {
      setFailure(error instanceof Refusal && error.kind === 'cancelled' ? t('run.cancelled') : messageOf(error));
    } finally {
      setRunning(undefined);
    }
  };

  return (
    <>
      <header>
        <div>
          <h1>{t('title')}</h1>
          <p class="lead">{t('lead')}</p>
          <p class="private">{t('private')}</p>
        </div>
        <label class="language">
          {t('language')}
          <select value={language()} onChange={(e) => void setLanguage(e.currentTarget.value).then(() => redraw(0))}>
            {languages.map((l) => (
              <option key={l.code} value={l.code} lang={l.code}>
                {l.name}
              </option>
            ))}
          </select>
        </label>
      </header>
      <main>
        <ModelStep model={model} busy={running !== undefined} onOpen={openModel} onBuiltIn={openBuiltIn} />
        <DataStep
          tables={tables}
          recipe={recipe}
          busy={opening || running !== undefined}
          samples={samples}
          onTable={openTable}
          onRemove={removeTable}
          onSamples={openSamples}
          onRecipe={setRecipe}
          onLabels={adoptLabels}
        />
        {recipe && <TaskStep recipe={recipe} ready={model !== undefined && hasTables(tables)} busy={running !== undefined} onRecipe={setRecipe} />}
        <RunStep model={model} tables={tables} recipe={recipe} running={running} record={record} failure={failure} onRun={run} />
        {record && <Warnings record={record} />}
        {record?.circuit && <Circuit key={record.started} record={record} circuit={record.circuit} />}
        {record?.zero_shot && <Results record={record} />}
      </main>
    </>
  );
}

export const hasTables = (tables: Tables) => tables.source_train !== undefined && tables.target_train !== undefined;
