import { useState } from 'preact/hooks';
import { lab, take } from '../lab';
import { number, t } from '../text';
import type { ArmKind } from '../bindings/ArmKind';
import type { Check } from '../bindings/Check';
import type { Recipe } from '../bindings/Recipe';
import type { UpdateRule } from '../bindings/UpdateRule';
import type { RuleSet } from '../bindings/RuleSet';
import { messageOf } from './App';

const arms: ArmKind[] = ['circuit', 'nearzero', 'random', 'full'];
const updates: UpdateRule[] = ['adamw', 'adafactor'];
const rules: RuleSet[] = ['linear', 'secant', 'published'];

export function TaskStep(props: { recipe: Recipe; ready: boolean; busy: boolean; onRecipe: (recipe: Recipe) => void }) {
  const { recipe, busy } = props;
  const [check, setCheck] = useState<Check>();
  const [failure, setFailure] = useState<string>();
  const change = (part: Partial<Recipe>) => {
    setCheck(undefined);
    setFailure(undefined);
    props.onRecipe({ ...recipe, ...part });
  };
  const verify = async () => {
    setFailure(undefined);
    try {
      setCheck(await take(lab.check(recipe)));
    } catch (error) {
      setCheck(undefined);
      setFailure(messageOf(error));
    }
  };
  const amount = (key: string, value: number, set: (n: number) => Partial<Recipe>, step = 1, min = 0) => (
    <label>
      {t(`task.${key}`)}
      <input
        type="number"
        name={key}
        min={min}
        step={step}
        value={value}
        disabled={busy}
        onChange={(e) => {
          const n = e.currentTarget.valueAsNumber;
          if (Number.isFinite(n) && n >= min) change(set(n));
          else e.currentTarget.value = String(value);
        }}
      />
    </label>
  );
  const size = (key: string, name: keyof Recipe['sizes']) =>
    amount(key, recipe.sizes[name], (n) => ({ sizes: { ...recipe.sizes, [name]: Math.round(n) } }));
  const epochs = (key: string, name: 'competence' | 'masked' | 'full') =>
    amount(key, recipe[name].epochs, (n) => ({ [name]: { ...recipe[name], epochs: Math.round(n) } }));
  const updatedBy = (key: string, name: 'competence' | 'full') => (
    <label>
      {t(`task.${key}`)}
      <select name={key} value={recipe[name].rule} disabled={busy} onChange={(e) => change({ [name]: { ...recipe[name], rule: e.currentTarget.value as UpdateRule } })}>
        {updates.map((rule) => (
          <option key={rule} value={rule}>
            {t(`updates.${rule}`)}
          </option>
        ))}
      </select>
    </label>
  );
  return (
    <section aria-labelledby="task-title">
      <h2 id="task-title">{t('task.title')}</h2>
      <label class="wide">
        {t('task.template')}
        <textarea
          name="template"
          rows={Math.min(6, recipe.template.split('\n').length + 1)}
          dir="auto"
          spellcheck={false}
          value={recipe.template}
          disabled={busy}
          onInput={(e) => change({ template: e.currentTarget.value })}
        />
        <span class="hint">{t('task.template_help')}</span>
      </label>
      <table class="words">
        <thead>
          <tr>
            <th scope="col">{t('task.label')}</th>
            <th scope="col">{t('task.word')}</th>
          </tr>
        </thead>
        <tbody>
          {recipe.labels.map((label, i) => (
            <tr key={label}>
              <td dir="auto">{label}</td>
              <td>
                <input
                  aria-label={`${t('task.word')}: ${label}`}
                  dir="auto"
                  value={recipe.words[i]}
                  disabled={busy}
                  onInput={(e) => {
                    const word = e.currentTarget.value;
                    change({ words: recipe.words.map((w, j) => (i === j ? word : w)) });
                  }}
                />
              </td>
            </tr>
          ))}
        </tbody>
      </table>
      <p class="hint">{t('task.word_help')}</p>
      <details>
        <summary>{t('task.settings')}</summary>
        <div class="fields">
          {size('source_rows', 'source_train')}
          {size('pool', 'pool')}
          {size('target_rows', 'target_train')}
          {size('test_rows', 'test')}
          {size('faithfulness_rows', 'faithfulness')}
          {amount('random_circuits', recipe.random_circuits, (n) => ({ random_circuits: Math.round(n) }))}
          {epochs('competence_epochs', 'competence')}
          {epochs('masked_epochs', 'masked')}
          {epochs('full_epochs', 'full')}
          {amount('depth', recipe.depth, (n) => ({ depth: Math.round(n) }))}
          {amount('ratio', recipe.ratio, (ratio) => ({ ratio }), 0.01, 0.001)}
          {amount('seed', recipe.seed, (n) => ({ seed: Math.round(n) }))}
          {updatedBy('competence_rule', 'competence')}
          {updatedBy('full_rule', 'full')}
          <label>
            {t('task.rule')}
            <select value={recipe.rule} disabled={busy} onChange={(e) => change({ rule: e.currentTarget.value as RuleSet })}>
              {rules.map((rule) => (
                <option key={rule} value={rule}>
                  {t(`rules.${rule}`)}
                </option>
              ))}
            </select>
          </label>
        </div>
        <fieldset disabled={busy}>
          <legend>{t('task.arms')}</legend>
          {arms.map((arm) => (
            <label key={arm} class="check">
              <input
                type="checkbox"
                name={`arm-${arm}`}
                checked={recipe.arms.includes(arm)}
                onChange={(e) => {
                  const on = e.currentTarget.checked;
                  change({ arms: arms.filter((a) => (a === arm ? on : recipe.arms.includes(a))) });
                }}
              />
              {t(`results.${arm}`)}
            </label>
          ))}
        </fieldset>
      </details>
      <button type="button" class="button" disabled={!props.ready || busy} onClick={() => void verify()}>
        {t('task.check')}
      </button>
      {failure && <p class="bad" role="alert">{failure}</p>}
      <div role="status">{check && <Checked check={check} />}</div>
    </section>
  );
}

function Checked({ check }: { check: Check }) {
  const s = check.sets;
  return (
    <>
      <p class="good">
        {t('task.checked', {
          tokens: check.answer_tokens.map((x) => `“${x}”`).join(', '),
          source: s.source_train.used,
          sourceTest: s.source_test.used,
          target: s.target_train.used,
          targetTest: s.target_test.used,
          mean: number(s.target_train.mean_tokens, 0),
          longest: Math.max(s.source_train.longest_tokens, s.source_test.longest_tokens, s.target_train.longest_tokens, s.target_test.longest_tokens),
        })}
      </p>
      <p class="hint">{t('task.prompt')}</p>
      <p class="tokens" dir="auto">
        {check.first_prompt.map((token, i) => (
          <span key={i}>{token.replace(/\n/g, '↵')}</span>
        ))}
      </p>
    </>
  );
}
