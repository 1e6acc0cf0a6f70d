// Data of events as text. PostgreSQL stores JSON of any shape, but
// JSON.stringify and String fail on values nested thousands of levels deep, and
// on objects with a key toString.

// compact prints a value as JSON.stringify does.
export function compact(value: unknown): string {
  try {
    return JSON.stringify(value) ?? '';
  } catch {
    return print(value, false, Infinity).text;
  }
}

const deepest = 50; // levels that are indented; more would be blanks only

// pretty prints a value with a line for each part, and at most so many
// characters of it.
export function pretty(value: unknown, most: number): { text: string; cut: boolean } {
  return print(value, true, most);
}

interface Level {
  parts: Iterator<[string | null, unknown]>;
  close: string;
  empty: boolean;
}

// print uses a stack of its own instead of recursion, so depth is not limited.
function print(value: unknown, lines: boolean, most: number): { text: string; cut: boolean } {
  const out: string[] = [];
  const levels: Level[] = [];
  let length = 0;
  const write = (text: string) => {
    out.push(text);
    length += text.length;
  };
  const indent = (deep: number) => (lines && deep <= deepest ? `\n${'  '.repeat(deep)}` : '');
  const begin = (v: unknown) => {
    if (v === null || typeof v !== 'object') {
      write(JSON.stringify(v) ?? 'null');
      return;
    }
    const list = Array.isArray(v);
    write(list ? '[' : '{');
    levels.push({ parts: partsOf(v as object), close: list ? ']' : '}', empty: true });
  };
  begin(value);
  for (let level = levels.at(-1); level && length <= most; level = levels.at(-1)) {
    const { value: part, done } = level.parts.next();
    if (done) {
      levels.pop();
      write(`${level.empty ? '' : indent(levels.length)}${level.close}`);
      continue;
    }
    const [name, child] = part;
    write(
      `${level.empty ? '' : ','}${indent(levels.length)}${name === null ? '' : `${JSON.stringify(name)}:${lines ? ' ' : ''}`}`
    );
    level.empty = false;
    begin(child);
  }
  return length > most ? { text: out.join('').slice(0, most), cut: true } : { text: out.join(''), cut: false };
}

function* partsOf(value: object): Generator<[string | null, unknown]> {
  if (Array.isArray(value)) {
    for (const part of value) {
      yield [null, part];
    }
    return;
  }
  yield* Object.entries(value);
}
