import type { Connection } from './connection';

const tick = 5_000; // ms
const asleep = 20_000; // a tick that comes this late tells of a sleep
const unseen = 30_000; // a page that was hidden for longer looks anew

// attend tells the connection what the browser knows: whether anybody can see
// the page, that the network is back, and that the device slept (a lid, a
// pocket): then no timer ran, and a socket may be dead without knowing.
export function attend(connection: Connection): () => void {
  let last = Date.now();
  let hiddenAt: number | null = null;
  const wake = () => connection.wake();
  const look = () => {
    if (document.hidden) {
      hiddenAt ??= Date.now();
      connection.hide();
      return;
    }
    const away = hiddenAt === null ? 0 : Date.now() - hiddenAt;
    hiddenAt = null;
    connection.appear();
    if (away > unseen) {
      wake();
    }
  };
  const beat = setInterval(() => {
    const late = Date.now() - last - tick;
    last = Date.now();
    // Browsers slow the timers of hidden pages down.
    if (late > asleep && !document.hidden) {
      wake();
    }
  }, tick);
  document.addEventListener('visibilitychange', look);
  window.addEventListener('online', wake);
  look();
  return () => {
    clearInterval(beat);
    document.removeEventListener('visibilitychange', look);
    window.removeEventListener('online', wake);
  };
}
