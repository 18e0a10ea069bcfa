import * as Comlink from 'comlink';
import { useState } from 'preact/hooks';
import { lab, take, Refusal } from '../lab';
import { number, t } from '../text';
import type { Downloadable, DownloadProgress, Stored } from '../download';
import { messageOf } from './App';

const megabytes = (bytes: number) => number(bytes / 1e6, bytes < 1e7 ? 1 : 0);

/** Models from the hub, and what of them is in this browser's storage. */
export function Downloads(props: { busy: boolean; onOpen: (files: File[]) => Promise<void> }) {
  const [models, setModels] = useState<Downloadable[]>([]);
  const [there, setThere] = useState<{ [id: string]: Stored }>({});
  const [loading, setLoading] = useState<{ id: string; progress?: DownloadProgress }>();
  const [failure, setFailure] = useState<{ id: string; why: string }>();

  const look = async (all: Downloadable[]) => {
    const found = await Promise.all(all.map(async (m): Promise<[string, Stored]> => [m.id, await take(lab.storedModel(m))]));
    setThere(Object.fromEntries(found));
  };
  /** Nobody who does not look here pays for the list. */
  const list = async () => {
    if (models.length > 0) return;
    const response = await fetch('./manifest.json');
    if (!response.ok) return;
    const all: Downloadable[] = await response.json();
    setModels(all);
    // Without storage the list stays: what is wrong is said when a download is asked for.
    await look(all).catch(() => undefined);
  };

  const attempt = async (model: Downloadable, what: () => Promise<void>) => {
    setFailure(undefined);
    try {
      await what();
    } catch (error) {
      if (!(error instanceof Refusal && error.kind === 'cancelled')) setFailure({ id: model.id, why: messageOf(error) });
    } finally {
      setLoading(undefined);
      await look(models).catch(() => undefined);
    }
  };
  const open = (model: Downloadable) =>
    attempt(model, async () => {
      setLoading({ id: model.id });
      const progress = Comlink.proxy((progress: DownloadProgress) => setLoading((now) => now && { ...now, progress }));
      const files = await take(lab.downloadModel(model, progress));
      setLoading(undefined);
      await props.onOpen(files);
    });
  const remove = (model: Downloadable) => attempt(model, async () => void (await take(lab.removeModel(model))));

  return (
    <details class="downloads" data-testid="downloads" onToggle={() => void list()}>
      <summary>{t('download.title')}</summary>
      <p class="hint">{t('download.help')}</p>
      <ul>
        {models.map((model) => {
          const state = there[model.id];
          const host = new URL(model.files[0] ?? location.href).host;
          const own = loading?.id === model.id ? loading : undefined;
          const p = own?.progress;
          const disabled = props.busy || loading !== undefined;
          return (
            <li key={model.id} data-testid={`download-${model.id}`}>
              <p>
                <strong>{model.name}</strong> <span class="hint">{t('download.about', { megabytes: megabytes(2 * model.weights), host, licence: model.licence })}</span>
              </p>
              <div class="buttons">
                <button type="button" class="button" disabled={disabled} onClick={() => void open(model)}>
                  {state?.complete
                    ? t('download.open', { name: model.name })
                    : state?.begun
                      ? t('download.resume', { name: model.name, megabytes: megabytes(state.bytes) })
                      : t('download.start', { name: model.name })}
                </button>
                {own && (
                  <button type="button" class="button" onClick={() => void lab.stopDownload()}>
                    {t('download.stop')}
                  </button>
                )}
                {!own && state && state.bytes > 0 && (
                  <button type="button" class="button" disabled={disabled} onClick={() => void remove(model)}>
                    {t('download.delete', { name: model.name, megabytes: megabytes(state.bytes) })}
                  </button>
                )}
              </div>
              {own && (
                <div class="progress" role="status">
                  <progress aria-label={model.name} value={p?.done} max={p?.total ?? 2 * model.weights} />
                  <p class="hint">
                    {p
                      ? t(p.checking ? 'download.checking' : 'download.progress', {
                          file: p.file,
                          done: megabytes(p.done),
                          total: p.total === undefined ? '?' : megabytes(p.total),
                        })
                      : t('download.starting', { host })}
                  </p>
                </div>
              )}
              {failure?.id === model.id && (
                <p class="bad" role="alert">
                  {failure.why}
                </p>
              )}
            </li>
          );
        })}
      </ul>
    </details>
  );
}
