// The data of an intervention request.
import { asked, scalarIn } from './format';
import { messageOf } from './text';

export interface Ask {
  question: string;
  options: string[];
  fallback: string | undefined; // the answer if nobody answers
  timeout: number | undefined; // seconds
  elsewhere: boolean; // the answer is given in the agent's own terminal
  clipped: boolean; // the state has only a part of the data
}

export function askOf(data: unknown): Ask {
  const fields = new Map<string, unknown>(data !== null && typeof data === 'object' ? Object.entries(data) : []);
  const options = fields.get('options');
  const timeout = fields.get('timeoutSeconds') ?? fields.get('timeout');
  const texts = Array.isArray(options)
    ? options.map(scalarIn).filter((text): text is string => text !== undefined && text !== '')
    : [];
  return {
    question: fields.get('clipped') === true && !fields.has('question') ? '' : asked(data),
    options: [...new Set(texts)],
    fallback: scalarIn(fields.get('default')) && messageOf(scalarIn(fields.get('default'))!),
    timeout: typeof timeout === 'number' ? timeout : typeof timeout === 'string' ? seconds(timeout) : undefined,
    elsewhere: fields.get('elsewhere') === true,
    clipped: fields.get('clipped') === true,
  };
}

const units = new Map([
  ['h', 3_600],
  ['m', 60],
  ['s', 1],
]);

// seconds parses a Go duration: 1h30m, 90s.
function seconds(text: string): number | undefined {
  const parts = [...text.matchAll(/(\d+(?:\.\d+)?)(h|m|s)(?!s)/g)];
  return parts.length > 0 && parts.map(([part]) => part).join('') === text
    ? parts.reduce((sum, [, n, unit]) => sum + Number(n) * units.get(unit)!, 0)
    : undefined;
}
