import { useState } from 'preact/hooks';
import { lab, take } from '../lab';
import { t } from '../text';
import type { EngineKind } from '../bindings/EngineKind';
import type { VerifyReport } from '../ctsft-lab.js';
import { messageOf } from './App';
import { FileDrop } from './FileDrop';

/** Checks this browser's engine against a folder of golden values. */
export function SelfCheck({ engine, busy }: { engine: EngineKind; busy: boolean }) {
  const [working, setWorking] = useState(false);
  const [report, setReport] = useState<VerifyReport>();
  const [failure, setFailure] = useState<string>();
  const check = async (files: File[]) => {
    setWorking(true);
    setReport(undefined);
    setFailure(undefined);
    try {
      setReport(await take(lab.verify(files, engine)));
    } catch (error) {
      setFailure(messageOf(error));
    } finally {
      setWorking(false);
    }
  };
  const passed = report?.checks.filter((c) => c.outcome === 'passed') ?? [];
  const failed = report?.checks.filter((c) => typeof c.outcome === 'object' && 'failed' in c.outcome) ?? [];
  const worst = Math.max(0, ...passed.map((c) => c.largest_relative_error));
  return (
    <details class="self-check">
      <summary>{t('selfcheck.title')}</summary>
      <p class="hint">{t('selfcheck.help')}</p>
      <FileDrop id="golden-files" label={t('selfcheck.pick')} accept=".json,.safetensors" multiple disabled={busy || working} onFiles={check} />
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
      </div>
      {failed.length > 0 && (
        <ul>
          {failed.map((c) => (
            <li key={c.quantity}>{c.quantity}</li>
          ))}
        </ul>
      )}
      {failure && <p class="bad" role="alert">{failure}</p>}
    </details>
  );
}
