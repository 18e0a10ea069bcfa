// All words of the page come from the message files, by key.
import i18next from 'i18next';
import en from './messages/en.json';
import id from './messages/id.json';

const saved = localStorage.getItem('language');
const wanted = saved ?? navigator.languages.find((l) => /^(en|id)\b/.test(l))?.slice(0, 2) ?? 'en';

void i18next.init({
  lng: wanted,
  fallbackLng: 'en',
  resources: { en: { translation: en }, id: { translation: id } },
  interpolation: { escapeValue: false },
});

export const languages = [
  { code: 'en', name: 'English' },
  { code: 'id', name: 'Bahasa Indonesia' },
];

export const t = i18next.t.bind(i18next) as (key: string, values?: { [name: string]: string | number }) => string;
export const language = () => i18next.language;

export async function setLanguage(code: string): Promise<void> {
  localStorage.setItem('language', code);
  await i18next.changeLanguage(code);
  document.documentElement.lang = code;
}
document.documentElement.lang = wanted;

export const number = (value: number, digits: number) =>
  // No sign before what rounds to zero.
  new Intl.NumberFormat(language(), { minimumFractionDigits: digits, maximumFractionDigits: digits, signDisplay: 'negative' }).format(value);
export const whole = (value: number) => new Intl.NumberFormat(language()).format(value);
export const percent = (value: number) =>
  new Intl.NumberFormat(language(), { style: 'percent', minimumFractionDigits: 1, maximumFractionDigits: 1 }).format(value);
export function duration(seconds: number): string {
  if (seconds < 90) return t('time.seconds', { n: Math.max(1, Math.round(seconds)) });
  return t('time.minutes', { n: Math.round(seconds / 60) });
}
