import { useEffect, useState } from 'preact/hooks';
import { lab, take } from '../lab';
import { duration, number, percent, t } from '../text';
import type { EngineKind } from '../bindings/EngineKind';
import type { ModelSummary } from '../bindings/ModelSummary';
import type { Recipe } from '../bindings/Recipe';
import type { Record } from '../bindings/Record';
import { messageOf, type Running, type Tables } from './App';
import { PlanView } from './PlanView';
import { SelfCheck } from './SelfCheck';

/** No browser says how much memory a GPU has, and a tab that takes too much is ended without a word. */
const DEFAULT_GIGABYTES = 2;

type Gpu = { name: string } | { problem: string } | undefined;

export function RunStep(props: {
  model?: ModelSummary;
  tables: Tables;
  recipe?: Recipe;
  running?: Running;
  record?: Record;
  failure?: string;
  onRun: (engine: EngineKind, gpuBytes: number) => Promise<void>;
}) {
  const [gpu, setGpu] = useState<Gpu>();
  const [chosen, setChosen] = useState<EngineKind>();
  const [stopping, setStopping] = useState(false);
  const [gigabytes, setGigabytes] = useState(Number(localStorage.getItem('gpu-gigabytes')) || DEFAULT_GIGABYTES);
  const gpuBytes = gigabytes * 1e9;
  useEffect(() => {
    take(lab.gpu()).then(
      (name) => setGpu({ name }),
      (error) => setGpu({ problem: messageOf(error) }),
    );
  }, []);
  const known = gpu !== undefined;
  const works = known && 'name' in gpu;
  // The rule sets that need a decomposed forward pass say so themselves when they are run.
  const engine: EngineKind = chosen ?? (works ? 'gpu' : 'cpu');
  const missing = [
    !props.model && t('run.needs_model'),
    !props.tables.source_train && t('run.needs_source'),
    !props.tables.target_train && t('run.needs_target'),
  ].filter((x): x is string => typeof x === 'string');
  const gpuText = gpu === undefined ? t('run.gpu_looking') : 'name' in gpu ? t('run.gpu', { name: gpu.name }) : t('run.gpu_none', { why: gpu.problem });
  return (
    <section aria-labelledby="run-title">
      <h2 id="run-title">{t('run.title')}</h2>
      <fieldset disabled={props.running !== undefined}>
        <legend>{t('run.engine')}</legend>
        <label class="check">
          <input type="radio" name="engine" value="gpu" checked={known && engine === 'gpu'} disabled={!works} onChange={() => setChosen('gpu')} />
          {gpuText}
        </label>
        <label class="check">
          <input type="radio" name="engine" value="cpu" checked={known && engine === 'cpu'} disabled={!known} onChange={() => setChosen('cpu')} />
          {t('run.cpu')}
        </label>
        {works && (
          <label class="check">
            {t('run.gpu_memory')}
            <input
              type="number"
              name="gpu_gigabytes"
              class="short"
              min={0.1}
              step={0.1}
              value={gigabytes}
              onChange={(e) => {
                const n = e.currentTarget.valueAsNumber;
                if (!(n > 0)) return void (e.currentTarget.value = String(gigabytes));
                setGigabytes(n);
                localStorage.setItem('gpu-gigabytes', String(n));
              }}
            />
          </label>
        )}
      </fieldset>
      <div class="buttons">
        <button
          type="button"
          class="button primary"
          disabled={!known || missing.length > 0 || props.running !== undefined}
          onClick={() => {
            setStopping(false);
            void props.onRun(engine, gpuBytes);
          }}
        >
          {t('run.start')}
        </button>
        {props.running && (
          <button
            type="button"
            class="button"
            disabled={stopping}
            onClick={() => {
              setStopping(true);
              void lab.cancel();
            }}
          >
            {t('run.cancel')}
          </button>
        )}
      </div>
      {props.recipe && (
        <PlanView recipe={props.recipe} engine={engine} gpuBytes={gpuBytes} disabled={!known || missing.length > 0 || props.running !== undefined} />
      )}
      {missing.length > 0 && <p class="hint">{t('run.needs', { what: missing.join(', ') })}</p>}
      {props.running && <RunProgress running={props.running} stopping={stopping} />}
      {props.failure && <p class="bad" role="alert">{props.failure}</p>}
      {props.record?.finished && (
        <p class="good" role="status" data-testid="finished">
          {t('run.done', {
            elapsed: duration(props.record.times.reduce((sum, x) => sum + x.seconds, 0)),
            device: props.record.device,
          })}{' '}
          {props.record.peak_device_bytes !== null && t('run.memory', { megabytes: number(props.record.peak_device_bytes / 1e6, 0) })}{' '}
          {props.record.heap_bytes !== null && t('run.heap', { megabytes: number(props.record.heap_bytes / 1e6, 0) })}
        </p>
      )}
      {props.record && !props.running && (
        <div class="buttons">
          <button type="button" class="button" onClick={() => props.record && download(props.record)}>
            {t('run.download')}
          </button>
        </div>
      )}
      <SelfCheck engine={engine} busy={props.running !== undefined} />
    </section>
  );
}

function RunProgress({ running, stopping }: { running: Running; stopping: boolean }) {
  const { loading, progress } = running;
  const done = progress ? Math.min(1, progress.done / progress.total) : 0;
  const stage = stopping
    ? t('run.stopping')
    : progress
      ? t(`stage.${progress.stage}`)
      : running.testing
        ? t('run.testing')
        : t('run.loading', { percent: percent(loading ? loading.done / loading.total : 0) });
  return (
    <div class="progress">
      <p role="status">{stage}</p>
      <progress aria-label={stage} value={progress ? done : loading ? loading.done / loading.total : undefined} max={1} />
      {progress && (
        <p class="hint">
          {t('run.progress', { percent: percent(done), elapsed: duration(progress.elapsed_seconds) })}
          {progress.remaining_seconds !== null && ` · ${t('run.left', { left: duration(progress.remaining_seconds) })}`}
        </p>
      )}
    </div>
  );
}

function download(record: Record) {
  const link = document.createElement('a');
  link.href = URL.createObjectURL(new Blob([`${JSON.stringify(record, null, 2)}\n`], { type: 'application/json' }));
  link.download = `ct-sft-record-${new Date(record.started).toISOString().slice(0, 19).replace(/:/g, '-')}.json`;
  link.click();
  URL.revokeObjectURL(link.href);
}
