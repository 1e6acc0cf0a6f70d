// Timeouts that work in background tabs. Browsers run the timers of a hidden
// page as rarely as once a minute, and not at all while the page is frozen or
// the device sleeps. Afterwards a timer may run before the answers that arrived
// meanwhile. So a late timer does not mean that an answer is late. A timeout is
// divided into steps that run one after the other, and each step counts the
// same, however late it ended. No clock is read, so setting the clock has no
// effect.
const steps = 3;

// patience calls over after ms, or later if timers are late. The returned
// function cancels it.
export function patience(ms: number, over: () => void): () => void {
  let left = steps;
  let timer: ReturnType<typeof setTimeout>;
  const step = () => {
    timer = setTimeout(() => {
      left--;
      if (left > 0) {
        step();
      } else {
        over();
      }
    }, ms / steps);
  };
  step();
  return () => clearTimeout(timer);
}

export const firstRetry = 500; // ms
const lastRetry = 30_000;

// backoff returns the pause before another attempt, in ms. It doubles with each
// failure and has full jitter, so that many viewers do not reconnect at the same
// moment.
export const backoff = (failures: number): number =>
  firstRetry / 2 + Math.random() * Math.min(lastRetry, firstRetry * 2 ** Math.min(failures, 10));

const beat = 5_000; // ms
const unanswered = 2; // pings in a row after which a connection is dead

// Pulse detects a dead connection: it pings when nothing has arrived for a beat.
// Only pings count that had a whole beat to be answered.
export class Pulse {
  private heard = true;
  private pings = 0;
  private timer: ReturnType<typeof setTimeout>;

  constructor(
    private readonly ping: () => void,
    private readonly dead: () => void
  ) {
    this.timer = setTimeout(this.beat, beat);
  }

  hear(): void {
    this.heard = true;
    this.pings = 0;
  }

  end(): void {
    clearTimeout(this.timer);
  }

  private beat = (): void => {
    if (this.pings === unanswered) {
      this.dead();
      return;
    }
    if (!this.heard) {
      this.pings++;
      this.ping();
    }
    this.heard = false;
    this.timer = setTimeout(this.beat, beat);
  };
}
