// Names and messages for display. Events may contain any text. It must not break the
// view or look like another text.

// Control characters are shown by their Unicode pictures. Characters that change
// the direction of the text, or are invisible, are replaced.
const controls = /[\u0000-\u001f\u007f]/g;
const deceptive = /[\u0080-\u009f\u200b\u2028-\u202e\u2060-\u2069\ufeff]|\p{Cs}/gu;
const picture = (c: string) => (c === '\u007f' ? '\u2421' : String.fromCharCode(0x2400 + c.charCodeAt(0)));

// A right-to-left name is isolated from the text around it.
const fromRight = /[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc]/;
const seen = /[^\s\p{Cf}\p{Mn}]/u;

// nameOf returns the name of a session or spec on one line.
export function nameOf(name: string, most = Infinity): string {
  const text = brief(name, most).replace(controls, picture).replace(deceptive, '\ufffd');
  if (name !== '' && !seen.test(text)) {
    return '(blank)';
  }
  return fromRight.test(text) ? `\u2068${text}\u2069` : text;
}

// messageOf returns a text with its lines and tabs.
export function messageOf(text: string): string {
  return text
    .replace(/\r\n?/g, '\n')
    .replace(controls, (c) => (c === '\n' || c === '\t' ? c : picture(c)))
    .replace(deceptive, '\ufffd');
}

// brief shortens a text without splitting a character.
export function brief(text: string, most: number): string {
  if (text.length <= most) {
    return text;
  }
  const last = text.charCodeAt(most - 2);
  return `${text.slice(0, last >= 0xd800 && last < 0xdc00 ? most - 2 : most - 1)}…`;
}
