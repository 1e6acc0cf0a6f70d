// The network between browser and server, and its faults: a toxiproxy.
import { type ChildProcess, spawn } from 'node:child_process';
import { createServer } from 'node:net';

async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((ready) => server.listen(0, '127.0.0.1', ready));
  const { port } = server.address() as { port: number };
  await new Promise((closed) => server.close(closed));
  return port;
}

// Network is the toxiproxy; it carries any number of links.
export class Network {
  private constructor(
    private readonly process: ChildProcess,
    private readonly api: string
  ) {}

  static async start(): Promise<Network> {
    const executable = process.env.SPECWATCH_TOXIPROXY;
    if (!executable) {
      throw new Error('SPECWATCH_TOXIPROXY is not set: run `go tool mage test`');
    }
    // Another process may take a port between when it is found free and when
    // toxiproxy binds it. Then toxiproxy ends, and the next port is tried.
    for (let attempt = 1; ; attempt++) {
      const port = await freePort();
      const child = spawn(executable, ['-host', '127.0.0.1', '-port', String(port)], { stdio: 'ignore' });
      const network = new Network(child, `http://127.0.0.1:${port}`);
      while (child.exitCode === null) {
        try {
          await network.ask('GET', '/version');
          return network;
        } catch {
          await new Promise((again) => setTimeout(again, 20));
        }
      }
      if (attempt === 5) {
        throw new Error(`toxiproxy ended with ${child.exitCode}`);
      }
    }
  }

  // link leads to an address (host:port) over a port of its own.
  async link(upstream: string): Promise<Link> {
    const name = `link-${Date.now()}-${Math.floor(Math.random() * 1e6)}`;
    const { listen } = await this.ask<{ listen: string }>('POST', '/proxies', {
      name,
      listen: '127.0.0.1:0',
      upstream,
      enabled: true,
    });
    return new Link(listen, (method, path, body) => this.ask(method, `/proxies/${name}${path}`, body));
  }

  async stop(): Promise<void> {
    const ended = new Promise((resolve) => this.process.once('exit', resolve));
    this.process.kill();
    await ended;
  }

  private async ask<T>(method: string, path: string, body?: object): Promise<T> {
    const response = await fetch(this.api + path, { method, body: body && JSON.stringify(body) });
    const text = await response.text();
    if (!response.ok) {
      throw new Error(`toxiproxy: ${method} ${path}: ${text}`);
    }
    return (text.startsWith('{') ? JSON.parse(text) : text) as T;
  }
}

type Ask = (method: string, path: string, body?: object) => Promise<unknown>;

export class Link {
  constructor(
    readonly address: string, // host:port
    private readonly ask: Ask
  ) {}

  // cut breaks every connection and refuses new ones, until mend.
  async cut(): Promise<void> {
    await this.ask('POST', '', { enabled: false });
  }

  // freeze leaves connections open and lets nothing through: a half-open link,
  // as behind a router that lost its state.
  async freeze(): Promise<void> {
    await this.both('freeze', 'timeout', { timeout: 0 });
  }

  // slow delays each packet by so many ms, give or take a half.
  async slow(ms: number): Promise<void> {
    await this.both('slow', 'latency', { latency: ms, jitter: Math.round(ms / 2) });
  }

  async mend(): Promise<void> {
    await this.ask('POST', '', { enabled: true });
    const { toxics } = (await this.ask('GET', '')) as { toxics: Array<{ name: string }> };
    for (const { name } of toxics) {
      await this.ask('DELETE', `/toxics/${name}`);
    }
  }

  private async both(name: string, type: string, attributes: object): Promise<void> {
    for (const stream of ['upstream', 'downstream']) {
      await this.ask('POST', '/toxics', { name: `${name}-${stream}`, type, stream, toxicity: 1, attributes });
    }
  }
}
