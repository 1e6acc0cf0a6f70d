// Title, icon and notifications of the browser.
import type { Connection } from '../connection/connection';
import type { State } from '../connection/model';
import { type Matter, type Memory, News, mattersIn, titleOf, together } from './attention';

// announce updates title and icon when the connection changes, and notifies.
export function announce(connection: Connection): void {
  const news = new News(memory);
  let shown = '';
  const look = () => {
    const { state, events, updatedAt, skew, badge } = connection.snapshot();
    const title = titleOf(state);
    if (title !== shown) {
      shown = title;
      document.title = title;
      showIcon(state);
    }
    // While disconnected the current state is not known, so nothing is new.
    if (state && updatedAt !== null && badge !== 'offline' && badge !== 'connecting') {
      together(news.of(mattersIn(events, state, Date.now() + skew))).forEach(notify);
    }
  };
  connection.subscribe(look);
  setInterval(look, 15_000); // a session becomes silent without an event
  look();
}

const told = 'specwatch.told';

// Without storage, notifications are for matters since the page was opened.
const memory: Memory = {
  read: () => {
    try {
      return localStorage.getItem(told);
    } catch {
      return null;
    }
  },
  write: (text) => {
    try {
      localStorage.setItem(told, text);
    } catch {
      // as above
    }
  },
};

// showIcon puts a dot on the icon: yellow while a request waits for an answer, red
// when a spec failed.
function showIcon(state: State | null): void {
  const waiting = state?.waitingTotal ?? 0;
  const color = waiting > 0 ? '#f2cc0c' : state && state.specs.failed + state.specs.timedOut > 0 ? '#e02f44' : '';
  const icon = document.querySelector<HTMLLinkElement>('link[rel=icon]');
  if (icon) {
    icon.href = color === '' ? 'logo.svg' : `data:image/svg+xml,${encodeURIComponent(marked(color))}`;
  }
  const badged = navigator as Navigator & { setAppBadge?(n: number): Promise<void> };
  badged.setAppBadge?.(waiting).catch(() => undefined); // the installed page's icon
}

const marked = (color: string): string =>
  `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 64 64"><rect width="64" height="64" rx="14" fill="#17324d"/>` +
  `<path d="M6 34h11l5-14 8 28 7-22 4 8h17" fill="none" stroke="#5be3a2" stroke-width="4.5"/><circle cx="46" cy="46" r="17" fill="${color}"/></svg>`;

export type Permission = NotificationPermission | 'unavailable';

export const permission = (): Permission => ('Notification' in window ? Notification.permission : 'unavailable');

export const askPermission = async (): Promise<Permission> =>
  'Notification' in window ? Notification.requestPermission() : 'unavailable';

function notify({ key, title, body }: Matter): void {
  if (permission() !== 'granted') {
    return;
  }
  const options = { body, tag: key, icon: 'icon-192.png' };
  try {
    const note = new Notification(title, options);
    note.onclick = () => {
      window.focus();
      note.close();
    };
  } catch {
    // Phones show notifications of service workers only.
    void navigator.serviceWorker?.ready
      .then((worker) => worker.showNotification(title, options))
      .catch(() => undefined);
  }
}
