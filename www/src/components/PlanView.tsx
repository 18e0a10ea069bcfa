import { useState } from 'preact/hooks';
import { lab, take } from '../lab';
import { duration, number, t } from '../text';
import type { EngineKind } from '../bindings/EngineKind';
import type { Plan } from '../bindings/Plan';
import type { Recipe } from '../bindings/Recipe';
import type { Suggestion } from '../bindings/Suggestion';
import { messageOf } from './App';

const size = (bytes: number) =>
  bytes < 1e9 ? t('plan.megabytes', { n: number(bytes / 1e6, 0) }) : t('plan.gigabytes', { n: number(bytes / 1e9, 2) });

/** Says before a run what it will take, and what would fit where it does not. */
export function PlanView(props: { recipe: Recipe; engine: EngineKind; gpuBytes: number; disabled: boolean }) {
  const { recipe, engine, gpuBytes } = props;
  const [planned, setPlanned] = useState<{ plan: Plan; for: string }>();
  const [working, setWorking] = useState(false);
  const [failure, setFailure] = useState<string>();
  // A plan speaks of what it was made for only.
  const now = JSON.stringify([recipe, engine, gpuBytes]);
  const plan = planned?.for === now ? planned.plan : undefined;
  const make = async () => {
    setWorking(true);
    setFailure(undefined);
    try {
      setPlanned({ plan: await take(lab.plan(recipe, engine, gpuBytes)), for: now });
    } catch (error) {
      setFailure(messageOf(error));
    } finally {
      setWorking(false);
    }
  };
  return (
    <>
      <button type="button" class="button" disabled={props.disabled || working} onClick={() => void make()}>
        {t('plan.make')}
      </button>
      <div role="status">
        {working && <p class="working">{t('plan.working')}</p>}
        {plan && <Planned plan={plan} />}
      </div>
      {failure && <p class="bad" role="alert">{failure}</p>}
    </>
  );
}

function Planned({ plan }: { plan: Plan }) {
  const most = Math.max(...plan.stages.map((stage) => stage.bytes));
  const fits = plan.stages.every((stage) => stage.fits);
  const largest = plan.largest_tensor ?? Infinity;
  const wide = plan.stages.filter((stage) => stage.tensor > largest);
  const verdict = fits ? 'plan.fits' : most > plan.limit ? 'plan.does_not_fit' : 'plan.does_not_fit_device';
  return (
    <div data-testid="plan">
      <p class={fits ? 'good' : 'bad'}>
        {t(verdict, { most: size(most), limit: size(plan.limit) })}
        {plan.seconds !== null && ` ${t('plan.time', { time: duration(plan.seconds) })}`}
      </p>
      {wide.map((stage) => (
        <p key={stage.stage} class="bad">
          {t('plan.tensor', { stage: t(`stage.${stage.stage}`), needed: size(stage.tensor), limit: size(largest) })}
        </p>
      ))}
      {plan.suggestions.length > 0 && (
        <>
          <p>{t('plan.would_fit')}</p>
          <ul>
            {plan.suggestions.map((suggestion, i) => (
              <li key={i}>{words(suggestion)}</li>
            ))}
          </ul>
        </>
      )}
      <details>
        <summary>{t('plan.by_stage')}</summary>
        <table>
          <thead>
            <tr>
              <th scope="col">{t('plan.stage')}</th>
              <th scope="col" class="number">{t('plan.memory')}</th>
              <th scope="col" class="number">{t('plan.seconds')}</th>
            </tr>
          </thead>
          <tbody>
            {plan.stages.map((stage) => (
              <tr key={stage.stage}>
                <th scope="row">{t(`stage.${stage.stage}`)}</th>
                <td class={stage.fits ? 'number' : 'number bad'}>
                  {size(stage.bytes)}
                  {!stage.fits && ` (${t('plan.too_much')})`}
                </td>
                <td class="number">{stage.seconds !== null && duration(stage.seconds)}</td>
              </tr>
            ))}
          </tbody>
        </table>
        <p class="hint">{t('plan.note')}</p>
      </details>
    </div>
  );
}

function words(s: Suggestion): string {
  switch (s.kind) {
    case 'adafactor':
      return t('plan.adafactor', { stage: t(`stage.${s.stage}`), memory: size(s.bytes) });
    case 'without_arm':
      return t('plan.without_arm', { stage: t(`stage.${s.stage}`) });
    case 'without_competence':
      return t('plan.without_competence');
    case 'limit':
      return t('plan.raise', { memory: size(s.bytes) });
  }
}
