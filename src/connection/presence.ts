const tick = 5_000; // ms
const slept = 20_000; // a tick that is this late means that the device slept
const unseen = 30_000; // a page that was hidden for longer checks the connection

// Attendant is told of browser events.
interface Attendant {
  hide?(): void; // the page is hidden …
  appear?(): void; // … or shown
  wake(): void; // look for what may have been missed
}

// attend reports browser events to a connection: the page is hidden or shown, the
// network is back, or the page was frozen or the device slept. Then no timer ran,
// and a socket may be dead without an event. None of these proves that the
// connection is lost, so the connection checks it.
export function attend(connection: Attendant): () => void {
  let last = Date.now();
  let hiddenAt: number | null = null;
  const wake = () => connection.wake();
  const look = () => {
    if (document.hidden) {
      hiddenAt ??= Date.now();
      connection.hide?.();
      return;
    }
    const away = hiddenAt === null ? 0 : Date.now() - hiddenAt;
    hiddenAt = null;
    connection.appear?.();
    if (away > unseen) {
      wake();
    }
  };
  // A page that is restored from the back/forward cache was frozen.
  const back = (e: PageTransitionEvent) => e.persisted && wake();
  const beat = setInterval(() => {
    const late = Date.now() - last - tick;
    last = Date.now();
    // Browsers throttle the timers of hidden pages.
    if (late > slept && !document.hidden) {
      wake();
    }
  }, tick);
  document.addEventListener('visibilitychange', look);
  document.addEventListener('resume', wake);
  window.addEventListener('online', wake);
  window.addEventListener('pageshow', back);
  look();
  return () => {
    clearInterval(beat);
    document.removeEventListener('visibilitychange', look);
    document.removeEventListener('resume', wake);
    window.removeEventListener('online', wake);
    window.removeEventListener('pageshow', back);
  };
}
