import { useRef, useState } from 'preact/hooks';
import { number, t } from '../text';
import type { Head } from '../bindings/Head';
import type { ModelConfig } from '../bindings/ModelConfig';

/** Layers × heads as an ARIA grid: arrow keys move, the caption speaks the cell, members carry their step's number. */
export function HeadGrid(props: { config: ModelConfig; relevance: (number | null)[][]; depths: Head[][] }) {
  const { config, relevance, depths } = props;
  const [at, setAt] = useState<Head>(depths[0]?.[0] ?? { layer: 0, head: 0 });
  const grid = useRef<HTMLDivElement>(null);
  const largest = Math.max(1e-12, ...relevance.flat().map((r) => Math.abs(r ?? 0)));
  const group = config.heads / config.kv_heads;
  const memberSince = (layer: number, head: number) => depths.findIndex((heads) => heads.some((h) => h.layer === layer && h.head === head));
  const describe = ({ layer, head }: Head) => {
    const value = relevance[layer]?.[head];
    const since = memberSince(layer, head);
    const base = t('circuit.cell', {
      layer,
      head,
      group: Math.floor(head / group),
      value: value === null || value === undefined ? t('circuit.no_target') : number(value, 3),
    });
    return since < 0 ? base : `${base}; ${t('circuit.member', { n: since })}`;
  };
  const move = (event: KeyboardEvent) => {
    const by: { [key: string]: [number, number] } = { ArrowUp: [1, 0], ArrowDown: [-1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
    const step = by[event.key];
    if (!step) return;
    event.preventDefault();
    const layer = Math.min(config.layers - 1, Math.max(0, at.layer + step[0]));
    const head = Math.min(config.heads - 1, Math.max(0, at.head + step[1]));
    setAt({ layer, head });
    grid.current?.querySelector<HTMLElement>(`[data-head="${layer}.${head}"]`)?.focus();
  };
  const layers = Array.from({ length: config.layers }, (_, i) => config.layers - 1 - i);
  const heads = Array.from({ length: config.heads }, (_, i) => i);
  return (
    <figure class="grid-figure">
      <div class="scroll">
        <div class="head-grid" role="grid" aria-label={t('circuit.grid')} ref={grid} onKeyDown={move} data-testid="head-grid">
          {layers.map((layer) => (
            <div role="row" key={layer} class="grid-row">
              <span role="rowheader" class="axis">
                {layer}
              </span>
              {heads.map((head) => {
                const value = relevance[layer]?.[head] ?? null;
                const since = memberSince(layer, head);
                const current = at.layer === layer && at.head === head;
                return (
                  <span
                    key={head}
                    role="gridcell"
                    data-head={`${layer}.${head}`}
                    tabIndex={current ? 0 : -1}
                    aria-label={describe({ layer, head })}
                    class={['cell', since >= 0 && 'member', head % group === 0 && head > 0 && 'group-start', value === null && 'none'].filter(Boolean).join(' ')}
                    style={{ background: colour(value, largest) }}
                    onFocus={() => setAt({ layer, head })}
                    onMouseEnter={() => setAt({ layer, head })}
                  >
                    {since >= 0 ? since : ''}
                  </span>
                );
              })}
            </div>
          ))}
          <div class="grid-row" aria-hidden="true">
            <span class="axis">↑ {t('circuit.layer')}</span>
            {heads.map((head) => (
              <span key={head} class={head % group === 0 && head > 0 ? 'axis head-number group-start' : 'axis head-number'}>
                {head}
              </span>
            ))}
            <span class="axis">{t('circuit.head')}</span>
          </div>
        </div>
      </div>
      <figcaption>
        <p class="cell-text" aria-hidden="true">
          {describe(at)}
        </p>
        <p class="legend">
          <span>
            {number(-largest, 2)} {t('circuit.legend_low')}
          </span>
          <span class="ramp" style={{ background: `linear-gradient(to right, ${[-1, -0.5, 0, 0.5, 1].map((x) => colour(x, 1)).join(', ')})` }} />
          <span>
            {number(largest, 2)} {t('circuit.legend_high')}
          </span>
        </p>
      </figcaption>
    </figure>
  );
}

/** Orange against, white at zero, blue for: distinguishable without red or green. */
function colour(value: number | null, largest: number): string {
  if (value === null) return 'transparent';
  const strength = Math.sqrt(Math.min(1, Math.abs(value) / largest));
  const [r, g, b] = value >= 0 ? [33, 102, 172] : [214, 96, 20];
  const mix = (c: number) => Math.round(255 + (c - 255) * strength * 0.85);
  return `rgb(${mix(r)}, ${mix(g)}, ${mix(b)})`;
}
