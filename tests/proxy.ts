// A proxy between browser and gateway, set up as people set theirs up: below a
// path, without WebSockets, with another Host.
import { type IncomingMessage, createServer, request } from 'node:http';
import type { Socket } from 'node:net';

interface Options {
  prefix?: string; // is taken off
  upgrades?: boolean; // WebSockets pass; they do by default
  host?: string; // what the gateway is told; by default what the browser said
}

export async function startProxy(
  upstream: string,
  { prefix = '', upgrades = true, host }: Options
): Promise<{ url: string; stop(): Promise<void> }> {
  const [hostname, port] = upstream.split(':');
  const sockets = new Set<Socket>();
  const passOn = (from: IncomingMessage, headers: IncomingMessage['headers']) =>
    request({
      hostname,
      port,
      method: from.method,
      path: from.url!.slice(prefix.length),
      headers: { ...headers, host: host ?? from.headers.host },
    });
  const server = createServer((from, to) => {
    if (!from.url!.startsWith(`${prefix}/`)) {
      to.writeHead(404).end();
      return;
    }
    const { connection: _, upgrade: __, ...headers } = from.headers; // of this hop only
    const onward = passOn(from, headers);
    onward.on('response', (answer) => answer.pipe(to.writeHead(answer.statusCode!, answer.headers)));
    onward.on('error', () => to.destroy());
    from.pipe(onward);
  });
  if (upgrades) {
    server.on('upgrade', (from, socket: Socket) => {
      const onward = passOn(from, from.headers);
      onward.on('upgrade', (answer, other: Socket) => {
        const lines = Object.entries(answer.headers).map(([name, value]) => `${name}: ${String(value)}\r\n`);
        socket.write(`HTTP/1.1 101 Switching Protocols\r\n${lines.join('')}\r\n`);
        socket.pipe(other).pipe(socket);
        socket.on('error', () => other.destroy());
        other.on('error', () => socket.destroy());
      });
      onward.on('response', (answer) =>
        socket.end(`HTTP/1.1 ${answer.statusCode} Refused\r\nContent-Length: 0\r\n\r\n`)
      );
      onward.on('error', () => socket.destroy());
      onward.end();
    });
  }
  server.on('connection', (socket) => {
    sockets.add(socket);
    socket.once('close', () => sockets.delete(socket));
  });
  await new Promise<void>((ready) => server.listen(0, '127.0.0.1', ready));
  const { port: own } = server.address() as { port: number };
  return {
    url: `http://127.0.0.1:${own}`,
    stop: async () => {
      const closed = new Promise((done) => server.close(done));
      sockets.forEach((socket) => socket.destroy());
      await closed;
    },
  };
}
