/** The strip that the control plane keeps of a photo: the photo, the old version's picture, the new one's, side by side. */

const GAP_PX = 6;
const TILES = 3;

/** Cut a strip into its three tiles; each is drawn to the size of the picture in it, without the white below. */
export async function cutStrip(strip: Blob): Promise<HTMLCanvasElement[]> {
  const picture = await createImageBitmap(strip);
  const side = (picture.width - (TILES - 1) * GAP_PX) / TILES;
  const whole = canvasOf(picture.width, picture.height);
  const pen = whole.getContext("2d", { willReadFrequently: true })!;
  pen.drawImage(picture, 0, 0);
  picture.close();
  return Array.from({ length: TILES }, (_, place) => {
    const left = Math.round(place * (side + GAP_PX));
    const pixels = pen.getImageData(left, 0, Math.floor(side), whole.height);
    const { width, height } = extent(pixels);
    const tile = canvasOf(width, height);
    tile.getContext("2d")!.drawImage(whole, left, 0, width, height, 0, 0, width, height);
    return tile;
  });
}

function canvasOf(width: number, height: number): HTMLCanvasElement {
  const canvas = document.createElement("canvas");
  canvas.width = width;
  canvas.height = height;
  return canvas;
}

/** A thumbnail fills its tile in one direction; in the other there is white. */
function extent(pixels: ImageData): { width: number; height: number } {
  const isBlank = (x: number, y: number) => {
    const at = 4 * (y * pixels.width + x);
    return (pixels.data[at] ?? 0) > 247 && (pixels.data[at + 1] ?? 0) > 247 && (pixels.data[at + 2] ?? 0) > 247;
  };
  let { width, height } = pixels;
  const every = (length: number, test: (place: number) => boolean) => Array.from({ length }, (_, place) => place).every(test);
  while (width > 1 && every(height, (y) => isBlank(width - 1, y))) width -= 1;
  while (height > 1 && every(width, (x) => isBlank(x, height - 1))) height -= 1;
  return { width, height };
}
