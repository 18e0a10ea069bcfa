import { number, percent, t, whole } from '../text';
import type { Accuracy } from '../bindings/Accuracy';
import type { ArmRecord } from '../bindings/ArmRecord';
import type { Both } from '../bindings/Both';
import type { Record } from '../bindings/Record';

export function Results({ record }: { record: Record }) {
  const { zero_shot, competent, recipe } = record;
  if (!zero_shot) return null;
  return (
    <section aria-labelledby="results-title">
      <h2 id="results-title">{t('results.title')}</h2>
      {record.advice && competent && <p>{t(`results.advice_${record.advice}`)}</p>}
      <div class="scroll" tabIndex={0} role="region" aria-labelledby="results-title">
        <table class="results" data-testid="results">
          <thead>
            <tr>
              {['arm', 'trained', 'source', 'target', 'f1', 'gain', 'drop', 'kl'].map((key) => (
                <th key={key} scope="col" class={['arm', 'source', 'target'].includes(key) ? '' : 'number'}>
                  {t(`results.${key}`)}
                </th>
              ))}
            </tr>
          </thead>
          <tbody>
            <tr class="baseline">
              <th scope="row">{t('results.majority')}</th>
              <td />
              <td>{percent(zero_shot.source.majority)}</td>
              <td>{percent(zero_shot.target.majority)}</td>
              <td colSpan={4} />
            </tr>
            <Line name={t('results.zero')} both={zero_shot} />
            {competent && <Line name={t('results.competent')} both={competent} trained={recipe.competence.epochs > 0 ? record.model.parameters : 0} />}
            {record.arms.map((arm, i) => (
              <Line key={i} name={armName(arm, record)} both={arm.result} trained={arm.trained_weights} total={record.model.parameters} arm={arm} before={competent ?? undefined} />
            ))}
          </tbody>
        </table>
      </div>
      <p class="hint">{t('results.note', { source: zero_shot.source.total, target: zero_shot.target.total, seed: recipe.seed })}</p>
    </section>
  );
}

/** An arm that was tuned in another way than the others says so. */
const armName = (arm: ArmRecord, { recipe }: Record) =>
  t(`results.${arm.kind}`) + (arm.kind === 'full' && recipe.full.rule !== 'adamw' ? ` (${t(`updates.${recipe.full.rule}`)})` : '');

function Line(props: { name: string; both: Both; trained?: number; total?: number; arm?: ArmRecord; before?: Both }) {
  const { both, arm, before, trained } = props;
  const points = (x: number) => `${x > 0 ? '+' : ''}${number(100 * x, 1)}`;
  return (
    <tr>
      <th scope="row">{props.name}</th>
      <td class="number">
        {trained !== undefined && whole(trained)}
        {trained !== undefined && props.total !== undefined && <small> ({percent(trained / props.total)})</small>}
      </td>
      <td>
        <Bar of={both.source} />
      </td>
      <td>
        <Bar of={both.target} />
      </td>
      <td class="number">{number(both.target.macro_f1, 2)}</td>
      <td class="number">{arm && before && points(both.target.accuracy - before.target.accuracy)}</td>
      <td class="number">{arm && points(arm.forgetting.accuracy_drop)}</td>
      <td class="number">{arm && number(arm.forgetting.kl, 3)}</td>
    </tr>
  );
}

/** Accuracy with its interval on a line from 0 to 1, with the majority label and chance marked. */
function Bar({ of }: { of: Accuracy }) {
  const at = (x: number) => `${100 * x}%`;
  return (
    <span class="bar">
      <span class="bar-text">
        {percent(of.accuracy)} <small>[{number(100 * of.interval.low, 0)}–{number(100 * of.interval.high, 0)}]</small>
      </span>
      <span class="bar-line" aria-hidden="true">
        <span class="bar-interval" style={{ insetInlineStart: at(of.interval.low), inlineSize: at(of.interval.high - of.interval.low) }} />
        <span class="bar-point" style={{ insetInlineStart: at(of.accuracy) }} />
        <span class="bar-majority" style={{ insetInlineStart: at(of.majority) }} />
        <span class="bar-chance" style={{ insetInlineStart: at(1 / of.confusion.length) }} />
      </span>
    </span>
  );
}
