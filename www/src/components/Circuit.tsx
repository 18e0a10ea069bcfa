import { useState } from 'preact/hooks';
import { number, percent, t } from '../text';
import type { CircuitRecord } from '../bindings/CircuitRecord';
import type { FaithfulnessRecord } from '../bindings/FaithfulnessRecord';
import type { Record } from '../bindings/Record';
import { HeadGrid } from './HeadGrid';

export function Circuit({ record, circuit }: { record: Record; circuit: CircuitRecord }) {
  const [step, setStep] = useState(0);
  const depth = circuit.depths[step];
  return (
    <section aria-labelledby="circuit-title">
      <h2 id="circuit-title">{t('circuit.title')}</h2>
      <p>{t('circuit.help')}</p>
      <div class="steps" role="group" aria-label={t('circuit.title')}>
        {circuit.depths.map((_, i) => (
          <button key={i} type="button" aria-pressed={i === step} onClick={() => setStep(i)}>
            {t('circuit.step', { n: i })} {i === 0 ? t('circuit.step_output') : t('circuit.step_heads', { n: i - 1 })}
          </button>
        ))}
      </div>
      {depth && <HeadGrid config={record.model.config} relevance={depth.relevance} depths={circuit.depths.map((d) => d.heads)} />}
      <p class="hint">{t('circuit.groups')}</p>
      {circuit.stability && (
        <p>
          {t('circuit.stability', {
            spearman: number(circuit.stability.spearman, 2),
            overlap: percent(circuit.stability.overlap),
            splits: circuit.stability.splits,
            pool: circuit.pool,
          })}
        </p>
      )}
      {circuit.faithfulness && <Faithfulness found={circuit.faithfulness} />}
    </section>
  );
}

function Faithfulness({ found }: { found: FaithfulnessRecord }) {
  const show = (f: number | null) => (f === null ? t('circuit.undefined') : number(f, 2));
  return (
    <>
      <p>{t('circuit.faithfulness', { n: found.examples })}</p>
      <p>{t('circuit.without', { all: percent(found.all_heads.accuracy), none: percent(found.no_heads.accuracy) })}</p>
      <div class="scroll" tabIndex={0} role="region" aria-label={t('circuit.circuit_column')}>
        <table>
          <thead>
            <tr>
              <th scope="col">{t('circuit.depth')}</th>
              <th scope="col">{t('circuit.heads')}</th>
              <th scope="col">{t('circuit.circuit_column')}</th>
              <th scope="col">{t('circuit.random_column')}</th>
              <th scope="col">{t('circuit.without_column')}</th>
              <th scope="col">{t('circuit.without_random_column')}</th>
            </tr>
          </thead>
          <tbody>
            {found.rows.map((row) => (
              <tr key={row.depth}>
                <td>{row.depth}</td>
                <td>{row.heads}</td>
                <td>
                  <strong>{show(row.faithfulness)}</strong>
                </td>
                <td>{row.random.map(show).join(' · ')}</td>
                <td>
                  <strong>{percent(row.without.accuracy)}</strong>
                </td>
                <td>{row.without_random.map((m) => percent(m.accuracy)).join(' · ')}</td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
    </>
  );
}
