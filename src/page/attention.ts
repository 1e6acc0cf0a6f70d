// The matters that the user is notified of while the page is open: by a number in
// the title and on the icon, and by one notification each.
import type { Session, SpecEvent, State } from '../connection/model';
import { limits } from '../contract.gen';
import { askOf } from '../view/ask';
import { said, span } from '../view/format';
import { idleIn } from '../view/glance';
import { brief, nameOf } from '../view/text';

// Matter is the content of a notification. Its key stays the same over reconnects
// and reloads.
export interface Matter {
  key: string;
  title: string;
  body: string;
}

const longest = 200; // characters

// mattersIn returns the matters in the events, newest first, and in the state.
export function mattersIn(events: readonly SpecEvent[], state: State, now: number): Matter[] {
  const matters: Matter[] = [];
  const add = (key: unknown[], title: string, body: string) =>
    matters.push({ key: JSON.stringify(key), title: brief(title, longest), body: brief(body, longest) });
  for (const e of events) {
    if (e.kind === 'timeout_triggered') {
      add(['timeout', e.id, e.at], `Timed out: ${nameOf(e.spec || e.session)}`, said(e.data) || nameOf(e.session));
    }
  }
  for (const w of state.waiting) {
    add(
      ['waiting', w.id, w.at],
      `Needs you: ${nameOf(w.spec || w.session)}`,
      askOf(w.data).question || 'An intervention was requested.'
    );
  }
  for (const s of state.sessions) {
    const name = nameOf(s.session);
    // By the status in the state, not by the age of the last answer.
    if (s.status === 'sleeping' && s.specs.open + s.specs.silent > 0) {
      add(
        ['silent', s.session, s.lastSeen],
        `Silent: ${name}`,
        `No event has arrived for ${span(now - Date.parse(s.lastSeen))}, and a spec has not ended.`
      );
    }
    if (s.status === 'running') {
      for (const { spec, since } of silentIn(state, s)) {
        add(
          ['silent', s.session, spec, since],
          `Silent: ${nameOf(spec || s.session)}`,
          `A spec has not ended, but its heartbeats have; session ${name} continues.`
        );
      }
    }
    if (s.failureStreak >= limits.failureStreak) {
      add(
        ['streak', s.session],
        `Failures in a row: ${name}`,
        `${s.failureStreak} specs failed or timed out since the last one that completed.`
      );
    }
  }
  for (const { session, spec, lastWork, for: idle } of idleIn(state, now)) {
    add(
      ['idle', session, spec, lastWork],
      `No output: ${nameOf(spec || session)}`,
      `Its heartbeats continue, but it has shown no output, CPU time or event for ${span(idle)}.`
    );
  }
  return matters;
}

// silentIn lists the silent specs of a session that runs. The state may not list all.
function silentIn(state: State, { session, specs }: Session): Array<{ spec: string; since: string }> {
  const found = state.silent.filter((open) => open.session === session);
  return found.length > 0 || !specs.silent ? found : [{ spec: '', since: '' }];
}

const remembered = 500; // keys

// Memory stores a text in this browser, for all of its tabs; null: there is none.
export interface Memory {
  read(): string | null;
  write(text: string): void;
}

// News returns each matter once per browser, also those that began while no page was
// open. It does not return those that exist when a browser first reads the events:
// the page shows them.
export class News {
  private told: Set<string> | null = null;
  private text: string | null = null; // the stored text that told was read from

  constructor(private readonly memory: Memory) {}

  // of returns the matters that are new. A streak that ended may come again.
  of(matters: readonly Matter[]): Matter[] {
    const told = this.recall();
    const news = told === null ? [] : matters.filter((m) => !told.has(m.key));
    const keys = new Set(matters.map((m) => m.key));
    const gone = [...(told ?? [])].filter((key) => !keys.has(key));
    const over = gone.filter((key) => !key.startsWith('["streak"'));
    if (told === null || news.length > 0 || over.length < gone.length) {
      this.keep([...over.slice(Math.max(over.length + keys.size - remembered, 0)), ...keys]);
    }
    return news;
  }

  private recall(): Set<string> | null {
    const text = this.memory.read();
    if (text !== null && text !== this.text) {
      try {
        this.told = new Set((JSON.parse(text) as unknown[]).map(String));
        this.text = text;
      } catch {
        // the stored text is not a list of keys
      }
    }
    return this.told;
  }

  private keep(keys: string[]): void {
    this.told = new Set(keys);
    this.text = JSON.stringify(keys);
    this.memory.write(this.text);
  }
}

const single = 3; // matters with a notification each; more of them share one

// together replaces many matters by one. There are many if the page was closed for
// long.
export function together(matters: readonly Matter[]): readonly Matter[] {
  if (matters.length <= single) {
    return matters;
  }
  const body = matters.map((m) => m.title).join('\n');
  return [{ key: 'together', title: `${matters.length} new notifications`, body: brief(body, longest) }];
}

// titleOf returns the title of the page, which begins with the numbers of waiting
// requests and of failed specs.
export function titleOf(state: State | null): string {
  const failed = state ? state.specs.failed + state.specs.timedOut : 0;
  const parts = [
    state && state.waitingTotal > 0 ? `${state.waitingTotal} waiting` : '',
    failed > 0 ? `${failed} failed` : '',
  ].filter((part) => part !== '');
  return parts.length > 0 ? `${parts.join(', ')} - Specwatch` : 'Specwatch';
}
