import { useState } from 'preact/hooks';
import { lab, take } from '../lab';
import { t, whole } from '../text';
import type { ModelSummary } from '../bindings/ModelSummary';
import { messageOf } from './App';
import { FileDrop } from './FileDrop';

export function ModelStep(props: { model?: ModelSummary; busy: boolean; onModel: (model?: ModelSummary) => void }) {
  const [opening, setOpening] = useState(false);
  const [failure, setFailure] = useState<string>();
  const open = async (files: File[]) => {
    setOpening(true);
    setFailure(undefined);
    try {
      props.onModel(await take(lab.openModel(files)));
    } catch (error) {
      setFailure(messageOf(error));
    } finally {
      setOpening(false);
    }
  };
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
        disabled={opening || props.busy}
        onFiles={open}
      />
      <div role="status">
        {opening && <p class="working">{t('model.opening')}</p>}
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
