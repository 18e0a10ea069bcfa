import { useEffect, useState } from 'preact/hooks';
import { t, whole } from '../text';
import type { ModelSummary } from '../bindings/ModelSummary';
import { messageOf } from './App';
import { Downloads } from './Downloads';
import { FileDrop } from './FileDrop';

export function ModelStep(props: {
  model?: ModelSummary;
  busy: boolean;
  onOpen: (files: File[]) => Promise<void>;
  onBuiltIn: () => Promise<void>;
}) {
  const [opening, setOpening] = useState<'own' | 'built-in'>();
  const [failure, setFailure] = useState<string>();
  const open = async (what: 'own' | 'built-in', how: () => Promise<void>) => {
    setOpening(what);
    setFailure(undefined);
    try {
      await how();
    } catch (error) {
      const why = messageOf(error);
      setFailure(what === 'own' ? why : t('model.built_in_failed', { why }));
    } finally {
      setOpening(undefined);
    }
  };
  useEffect(() => void open('built-in', props.onBuiltIn), []);
  const c = props.model?.config;
  return (
    <section aria-labelledby="model-title">
      <h2 id="model-title">{t('model.title')}</h2>
      <p>{t('model.help')}</p>
      <FileDrop
        id="model-files"
        label={t('model.pick')}
        hint={t('model.drop')}
        accept=".gguf,.safetensors,.json"
        multiple
        disabled={opening !== undefined || props.busy}
        onFiles={(files) => void open('own', () => props.onOpen(files))}
      />
      <div class="buttons">
        <button type="button" class="button" disabled={opening !== undefined || props.busy} onClick={() => void open('built-in', props.onBuiltIn)}>
          {t('model.use_built_in')}
        </button>
      </div>
      <p class="hint">{t('model.about_built_in')}</p>
      <Downloads busy={opening !== undefined || props.busy} onOpen={(files) => open('own', () => props.onOpen(files))} />
      <div role="status">
        {opening && <p class="working">{t(opening === 'own' ? 'model.opening' : 'model.opening_built_in')}</p>}
        {!opening && props.model && c && (
          <p class="good" data-testid="model-summary">
            {t('model.open', {
              name: props.model.name,
              format: props.model.format,
              parameters: whole(props.model.parameters),
              layers: c.layers,
              heads: c.heads,
              total: c.layers * c.heads,
              kv: c.kv_heads,
            })}
          </p>
        )}
      </div>
      {failure && <p class="bad" role="alert">{failure}</p>}
    </section>
  );
}
