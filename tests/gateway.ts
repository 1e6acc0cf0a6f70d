// A real gateway: the built executable, over a schema of its own on the
// PostgreSQL server for tests.
import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { createInterface } from 'node:readline';
import { promisify } from 'node:util';

export const executable = process.env.SPECWATCH_EXECUTABLE ?? 'bin/specwatch';

export class Gateway {
  url = '';
  private process?: ChildProcess;

  constructor(
    private readonly env: Record<string, string> = {},
    readonly schema = `browser_${Date.now()}_${Math.floor(Math.random() * 1e6)}`
  ) {}

  get environment(): NodeJS.ProcessEnv {
    const database = process.env.SPECWATCH_TEST_DATABASE_URL;
    if (!database) {
      throw new Error('SPECWATCH_TEST_DATABASE_URL is not set: run `go tool mage test`');
    }
    return { ...process.env, ...this.env, SPECWATCH_DATABASE_URL: database, SPECWATCH_SCHEMA: this.schema };
  }

  async specwatch(...args: string[]): Promise<string> {
    const { stdout } = await promisify(execFile)(executable, args, { env: this.environment });
    return stdout.trim();
  }

  async start(listen = '127.0.0.1:0'): Promise<void> {
    await this.specwatch('migrate');
    const child = spawn(executable, ['serve', '--listen', listen], {
      env: this.environment,
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    this.process = child;
    for await (const line of createInterface({ input: child.stdout! })) {
      this.url = line;
      return;
    }
    throw new Error('the gateway ended before it was ready');
  }

  async stop(): Promise<void> {
    const child = this.process;
    this.process = undefined;
    if (child && child.exitCode === null) {
      const ended = new Promise((resolve) => child.once('exit', resolve));
      child.kill('SIGTERM');
      await ended;
    }
  }

  // address is host:port.
  get address(): string {
    return new URL(this.url).host;
  }

  // restart comes back at the same address. Until then another process may have
  // the port for a connection of its own.
  async restart(): Promise<void> {
    const { address } = this;
    await this.stop();
    for (const late = Date.now() + 30_000; ;) {
      try {
        await this.start(address);
        return;
      } catch (error) {
        if (Date.now() > late) {
          throw error;
        }
      }
    }
  }

  async emit(...specs: string[]): Promise<void> {
    const events = specs.map((spec) => ({ kind: 'spec_started', session: 'night', spec }));
    const response = await fetch(`${this.url}/api/events`, { method: 'POST', body: JSON.stringify(events) });
    if (response.status !== 201) {
      throw new Error(await response.text());
    }
  }
}
