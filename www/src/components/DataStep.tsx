import { useState } from 'preact/hooks';
import { lab, take } from '../lab';
import { percent, t, whole } from '../text';
import type { ColumnMapping } from '../bindings/ColumnMapping';
import type { Recipe } from '../bindings/Recipe';
import type { Role } from '../bindings/Role';
import type { TablePreview } from '../bindings/TablePreview';
import { messageOf, type Tables } from './App';
import { FileDrop } from './FileDrop';

const roles: Role[] = ['source_train', 'source_test', 'target_train', 'target_test'];

export function DataStep(props: {
  tables: Tables;
  recipe?: Recipe;
  busy: boolean;
  /** Whether the tables are the lab's own samples. */
  samples: boolean;
  onTable: (role: Role, file: File) => Promise<void>;
  onRemove: (role: Role) => Promise<void>;
  onSamples: () => Promise<void>;
  onRecipe: (recipe: Recipe) => void;
  onLabels: (labels: string[]) => void;
}) {
  const [failure, setFailure] = useState<string>();
  const openSamples = async () => {
    setFailure(undefined);
    try {
      await props.onSamples();
    } catch (error) {
      setFailure(messageOf(error));
    }
  };
  return (
    <section aria-labelledby="data-title">
      <h2 id="data-title">{t('data.title')}</h2>
      <p>{t('data.help', { share: percent(props.recipe?.test_share ?? 0.4) })}</p>
      {props.samples ? (
        <p class="good" data-testid="samples">
          {t('data.samples')}{' '}
          <a href="./lab/grammar.html" target="_blank">
            {t('data.grammar')}
          </a>
        </p>
      ) : (
        <div class="buttons">
          <button type="button" class="button" disabled={props.busy} onClick={() => void openSamples()}>
            {t('data.open_samples')}
          </button>
        </div>
      )}
      {failure && <p class="bad" role="alert">{failure}</p>}
      <div class="tables">
        {roles.map((role) => (
          <TableSlot key={role} role={role} {...props} table={props.tables[role]} />
        ))}
      </div>
    </section>
  );
}

function TableSlot(props: Parameters<typeof DataStep>[0] & { role: Role; table?: TablePreview }) {
  const [failure, setFailure] = useState<string>();
  const { role, table, recipe } = props;
  const open = async (files: File[]) => {
    setFailure(undefined);
    try {
      const file = files[0];
      if (file) await props.onTable(role, file);
    } catch (error) {
      setFailure(`${files[0]?.name}: ${messageOf(error)}`);
    }
  };
  const key = role.startsWith('source') ? 'source_columns' : 'target_columns';
  const mapping = recipe?.[key] ?? table?.mapping ?? null;
  const setMapping = async (next: ColumnMapping) => {
    if (!recipe) return;
    props.onRecipe({ ...recipe, [key]: next });
    if (role === 'source_train' && next.label !== mapping?.label) props.onLabels(await take(lab.labels(role, next.label)));
  };
  return (
    <div class="table-slot" data-testid={role}>
      <h3>{t(`data.${role}`)}</h3>
      <FileDrop id={`file-${role}`} label={t('data.pick')} accept=".csv,.tsv,.txt,.jsonl,.ndjson" disabled={props.busy} onFiles={open} />
      {failure && <p class="bad" role="alert">{failure}</p>}
      {table && (
        <>
          <p class="good">
            <bdi>{table.file}</bdi>: {t('data.read', { rows: whole(table.total_rows), format: table.format, encoding: table.encoding })}
            {!table.header && `, ${t('data.no_header')}`}{' '}
            <button type="button" class="quiet" disabled={props.busy} onClick={() => void props.onRemove(role)}>
              {t('data.remove')}
            </button>
          </p>
          {table.skipped[0] && (
            <p class="warn">{t('data.skipped', { n: table.skipped.length, row: table.skipped[0].row, problem: table.skipped[0].problem })}</p>
          )}
          {role.endsWith('train') && <Mapping table={table} mapping={mapping} disabled={props.busy} onMapping={setMapping} />}
          <Preview table={table} mapping={mapping} />
        </>
      )}
    </div>
  );
}

function Mapping(props: { table: TablePreview; mapping: ColumnMapping | null; disabled: boolean; onMapping: (m: ColumnMapping) => void }) {
  const first = props.table.columns[0] ?? '';
  const mapping: ColumnMapping = props.mapping ?? { text: first, second: null, label: first, id: null };
  const field = (name: keyof ColumnMapping, optional: boolean) => (
    <label>
      {t(`data.${name}_column`)}
      <select
        value={mapping[name] ?? ''}
        disabled={props.disabled}
        onChange={(e) => props.onMapping({ ...mapping, [name]: e.currentTarget.value || null })}
      >
        {optional && <option value="">{t('data.none')}</option>}
        {props.table.columns.map((c) => (
          <option key={c} value={c}>
            {c}
          </option>
        ))}
      </select>
    </label>
  );
  return (
    <div class="fields">
      {field('text', false)}
      {field('label', false)}
      {field('second', true)}
      {field('id', true)}
    </div>
  );
}

function Preview({ table, mapping }: { table: TablePreview; mapping: ColumnMapping | null }) {
  const mapped = new Set([mapping?.text, mapping?.label, mapping?.second].filter(Boolean));
  return (
    <div class="scroll" tabIndex={0} role="region" aria-label={t('data.preview', { file: table.file })}>
      <table class="preview">
        <caption class="sr">{t('data.preview', { file: table.file })}</caption>
        <thead>
          <tr>
            {table.columns.map((c) => (
              <th key={c} scope="col" class={mapped.has(c) ? 'mapped' : ''}>
                {c}
              </th>
            ))}
          </tr>
        </thead>
        <tbody>
          {table.rows.map((row) => (
            <tr key={row.number}>
              {row.cells.map((cell, i) => (
                <td key={i} dir="auto" class={mapped.has(table.columns[i]) ? 'mapped' : ''}>
                  {cell.length > 140 ? `${Array.from(cell).slice(0, 140).join('')}…` : cell}
                </td>
              ))}
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}
