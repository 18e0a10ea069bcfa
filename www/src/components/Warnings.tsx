import { number, percent, t } from '../text';
import type { Record } from '../bindings/Record';
import type { Warning } from '../bindings/Warning';

export function Warnings({ record }: { record: Record }) {
  if (record.warnings.length === 0) return null;
  return (
    <ul class="warnings">
      {record.warnings.map((warning, i) => (
        <li key={i} class="warn">
          {words(warning)}
        </li>
      ))}
    </ul>
  );
}

function words(w: Warning): string {
  switch (w.kind) {
    case 'not_competent':
      return t('warning.not_competent', { accuracy: percent(w.accuracy), majority: percent(w.majority) });
    case 'unstable_relevance':
      return t('warning.unstable_relevance', { spearman: number(w.spearman, 2) });
    case 'non_finite':
      return t('warning.non_finite', { count: w.count });
    case 'crossing':
      return t('warning.crossing', {
        rows: w.rows,
        what: w.example.what,
        first: w.example.first_file,
        firstRow: w.example.first_row,
        second: w.example.second_file,
        secondRow: w.example.second_row,
      });
    case 'cut':
      return t('warning.cut', { rows: w.rows, set: w.set });
    case 'device_lost':
      return t('warning.device_lost', { stage: t(`stage.${w.stage}`) });
  }
}
