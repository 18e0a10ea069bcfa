import { useState } from 'preact/hooks';
import { lab, take } from '../lab';
import { number, t } from '../text';
import type { EngineKind } from '../bindings/EngineKind';
import type { Followed, VerifyReport } from '../ctsft-lab.js';
import { messageOf } from './App';
import { FileDrop } from './FileDrop';

/** Checks this browser's engine against a folder of golden values. */
export function SelfCheck({ engine, busy }: { engine: EngineKind; busy: boolean }) {
  const [working, setWorking] = useState(false);
  const [report, setReport] = useState<VerifyReport>();
  const [followed, setFollowed] = useState<Followed>();
  const [failure, setFailure] = useState<string>();
  const attempt = async (work: () => Promise<void>) => {
    setWorking(true);
    setReport(undefined);
    setFollowed(undefined);
    setFailure(undefined);
    try {
      await work();
    } catch (error) {
      setFailure(messageOf(error));
    } finally {
      setWorking(false);
    }
  };
  const check = (files: File[]) => attempt(async () => setReport(await take(lab.verify(files, engine))));
  const passed = report?.checks.filter((c) => c.outcome === 'passed') ?? [];
  const failed =
    report?.checks.flatMap(({ quantity, outcome }) => (typeof outcome === 'object' && 'failed' in outcome ? [{ quantity, why: outcome.failed }] : [])) ?? [];
  const worst = Math.max(0, ...passed.map((c) => c.largest_relative_error));
  return (
    <details class="self-check">
      <summary>{t('selfcheck.title')}</summary>
      <p class="hint">{t('selfcheck.help')}</p>
      <FileDrop id="golden-files" label={t('selfcheck.pick')} accept=".json,.safetensors" multiple disabled={busy || working} onFiles={check} />
      <p>
        <button type="button" class="button" disabled={busy || working || engine !== 'gpu'} onClick={() => void attempt(async () => setFollowed(await take(lab.follow())))}>
          {t('selfcheck.follow')}
        </button>
      </p>
      <div role="status">
        {working && <p class="working">{t('selfcheck.working')}</p>}
        {report && (
          <p class={failed.length > 0 ? 'bad' : 'good'} data-testid="self-check">
            {t('selfcheck.report', {
              device: report.device,
              passed: passed.length,
              failed: failed.length,
              skipped: report.checks.length - passed.length - failed.length,
              worst: worst.toExponential(1),
            })}
          </p>
        )}
        {followed && (
          <p class={followed.largest_relative_error <= 1e-3 ? 'good' : 'bad'} data-testid="followed">
            {t('selfcheck.followed', {
              device: followed.device,
              steps: followed.steps,
              first: number(followed.first, 3),
              last: number(followed.last, 3),
              worst: followed.largest_relative_error.toExponential(1),
            })}
          </p>
        )}
      </div>
      {failed.length > 0 && (
        <ul>
          {failed.map((c) => (
            <li key={c.quantity}>
              {c.quantity}: {c.why}
            </li>
          ))}
        </ul>
      )}
      {failure && <p class="bad" role="alert">{failure}</p>}
    </details>
  );
}
