// span prints a length of time in its one or two largest units.
export function span(ms: number): string {
  const s = Math.max(0, Math.round(ms / 1000));
  if (s < 60) {
    return `${s} s`;
  }
  if (s < 3600) {
    return s % 60 && s < 600 ? `${Math.floor(s / 60)} min ${s % 60} s` : `${Math.floor(s / 60)} min`;
  }
  if (s < 86_400) {
    return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  }
  return `${Math.floor(s / 86_400)} d ${Math.floor((s % 86_400) / 3600)} h`;
}

export const ago = (ms: number): string => (ms < 2_000 ? 'Just now' : `${span(ms)} ago`);

const clockFormat = new Intl.DateTimeFormat(undefined, { hour: '2-digit', minute: '2-digit', second: '2-digit', hour12: false });
const dayFormat = new Intl.DateTimeFormat(undefined, { month: 'short', day: 'numeric' });

// clock prints a time of today, and the day too for any other.
export function clock(at: number, now: number): string {
  const text = clockFormat.format(at);
  return new Date(at).toDateString() === new Date(now).toDateString() ? text : `${dayFormat.format(at)}, ${text}`;
}

// What the runner writes, in words.
const phrases: Record<string, (value: unknown) => string> = {
  exit_code: (v) => `exit code ${v}`,
  signal: (v) => `ended by ${v}`,
  duration_seconds: (v) => `after ${Number(v).toFixed(1)} s`,
  timeout_seconds: (v) => `timeout ${v} s`,
  command: (v) => (Array.isArray(v) ? v.join(' ') : String(v)),
  reason: () => '', // the kind of event says it
};

// said finds in an event's data what a person would want to read first.
export function said(data: unknown): string {
  if (data === null || typeof data !== 'object') {
    return data === undefined || data === null ? '' : String(data);
  }
  const fields = data as Record<string, unknown>;
  for (const name of ['question', 'message', 'error', 'text', 'title']) {
    if (typeof fields[name] === 'string') {
      return fields[name];
    }
  }
  return Object.entries(fields)
    .map(([name, value]) => phrases[name]?.(value) ?? `${name.replaceAll('_', ' ')} ${typeof value === 'object' ? JSON.stringify(value) : String(value)}`)
    .filter((text) => text !== '')
    .join(', ');
}
